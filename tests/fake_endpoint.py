"""An OpenAI-compatible endpoint on the loopback device that behaves, or misbehaves, as a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the endpoint sends; ``body`` as it is where it is bytes, else as JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0  # pause after every byte of the body


def completion(
    text: Any, prompt_tokens: int = 100, completion_tokens: int = 10, finish_reason: str = "stop", **more: Any
) -> Reply:
    """A chat completion; ``more`` stands beside the text (``reasoning_content``)."""
    message = {"role": "assistant", "content": text, **more}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    usage["total_tokens"] = prompt_tokens + completion_tokens
    choice = {"index": 0, "finish_reason": finish_reason, "message": message}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return Reply(200, body)


def objects(**audible: bool) -> Reply:
    """A completion that names objects; ``_`` in a name stands for a space."""
    rows = [
        {"name": name.replace("_", " "), "audibility": "visible and audible" if loud else "visible only"}
        for name, loud in audible.items()
    ]
    return completion(json.dumps({"objects": rows}))


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI words it."""
    return Reply(status, {"error": {"message": message, "type": "t", "code": code}}, headers)


class FakeEndpoint:
    """``with FakeEndpoint(lambda request, number: objects(dog=True)) as endpoint: ... endpoint.base_url``.

    Attributes:
        requests: the JSON bodies received, in order.
        keys: the Authorization headers received.
        most_at_once: how many requests were in flight at most.
    """

    def __init__(self, respond: Callable[[dict[str, Any], int], Reply]):
        self.respond = respond
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FakeEndpoint:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def captions(self) -> list[str]:
        """What was asked about, in order."""
        return [request["messages"][-1]["content"] for request in self.requests]

    def _answer(self, request: dict[str, Any], key: str | None) -> Reply:
        with self._lock:
            self.requests.append(request)
            self.keys.append(key)
            number = len(self.requests) - 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self.respond(request, number)
            time.sleep(reply.delay_s)
            return reply
        finally:
            with self._lock:
                self._at_once -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                reply = endpoint._answer(json.loads(text), self.headers.get("Authorization"))
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                try:
                    self.send_response(reply.status)
                    kind = {"Content-Type": "application/json", "Content-Length": str(len(body))}
                    for name, value in (kind | reply.headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    for part in [body[n : n + 1] for n in range(len(body))] if reply.drip_s else [body]:
                        self.wfile.write(part)
                        time.sleep(reply.drip_s)
                except OSError:
                    pass  # the client had enough of waiting

            def log_message(self, *_: object) -> None:
                pass

        return Handler
