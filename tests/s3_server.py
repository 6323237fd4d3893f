"""An S3 server on loopback (moto), whose answers a test can spoil."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import boto3
from botocore.config import Config
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "ravst-tests"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "planted-secret-9f27"}


@dataclass
class S3Server:
    """``spoil`` is asked about each request (method, path) and may give a status to answer with instead."""

    port: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    spoil: Callable[[str, str], int | None] = lambda method, path: None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What pyarrow and boto3 need to find it."""
        region = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
        return {"AWS_ENDPOINT_URL": self.endpoint, **region, **KEYS}

    @property
    def client(self):
        keys = dict(zip(("aws_access_key_id", "aws_secret_access_key"), KEYS.values(), strict=True))
        plain = Config(proxies={}, region_name="us-east-1")
        return boto3.client("s3", endpoint_url=self.endpoint, config=plain, **keys)

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def keys(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return sorted(one["Key"] for one in found.get("Contents", ()))

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel("ERROR")
    application = DomainDispatcherApplication(create_backend_app)
    served = S3Server()

    def answer(environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        served.requests.append((method, path))
        status = served.spoil(method, path)
        if status is None:
            return application(environ, start_response)
        start_response(f"{status} Spoiled", [("Content-Type", "application/xml")])
        code = {503: "SlowDown", 403: "AccessDenied"}.get(status, "InternalError")
        return [f"<Error><Code>{code}</Code><Message>spoiled</Message></Error>".encode()]

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    served.port = server.port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        served.client.create_bucket(Bucket=BUCKET)
        yield served
    finally:
        server.shutdown()
        server.server_close()
