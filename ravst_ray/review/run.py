"""``ravst review``: opens an output, or files of predictions, and serves the page until it is interrupted."""

from __future__ import annotations

import contextlib
import gc
import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ravst_ray.config.review import PageConfig, PredictionsConfig, ReviewConfig
from ravst_ray.errors import ConfigError
from ravst_ray.review.guard import is_loopback
from ravst_ray.review.service import Review

if TYPE_CHECKING:
    from fastapi import FastAPI


def serve(output: str, config: ReviewConfig, say: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        output: of ``ravst annotate``, a path or a URI.
        config: of the review.
        say: hears where the page is, and what one should know.

    Raises:
        ConfigError: no such output, no such address, or another address than loopback without a token.
        AbortError: the output can't be read.
    """

    def make() -> FastAPI:
        from ravst_ray.review.server import make_app

        gc.disable()  # what is read here stays: to look for garbage among it took a third of the time
        try:
            review = Review(output, config)
            gc.freeze()
        finally:
            gc.enable()
        review.pictures.warm()
        if review.why_not_writable:
            say(f"to look only: {review.why_not_writable}")
        return make_app(review)

    _serve(config, make, output, say)


def serve_predictions(
    predictions: Sequence[str], annotations: str, config: PredictionsConfig, say: Callable[[str], None]
) -> None:
    """Serve one or two files of predictions until interrupted.

    Args:
        predictions: paths or URIs.
        annotations: of their questions.
        config: how they are scored, and where it is served.
        say: hears where the page is, and what one should know.

    Raises:
        ConfigError: a file can't be used, no such address, or another address than loopback without a token.
    """

    def make() -> FastAPI:
        from ravst_ray.review.predictions.server import make_app
        from ravst_ray.review.predictions.service import Predictions

        say("reading and scoring the answers …")
        opened = Predictions(predictions, annotations, config)
        opened.pictures.warm()
        return make_app(opened)

    _serve(config, make, " and ".join(predictions), say)


def _serve(config: PageConfig, make: Callable[[], FastAPI], what: str, say: Callable[[str], None]) -> None:
    if not is_loopback(config.host) and config.token is None:
        example = secrets.token_urlsafe(24)
        raise ConfigError(
            f"--host {config.host}: others could review, too; add a token that they must know, for example "
            f"--token {example}"
        )
    listening = _listen(config.host, config.port)
    import uvicorn

    with listening:
        app = make()
        say(f"review {what} at {address(config, listening.getsockname()[1])} (Ctrl-C ends it)")
        settings = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(settings)
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)  # what is cut off is no error
        with contextlib.suppress(KeyboardInterrupt):  # that is how one ends it
            server.run(sockets=[listening])


def address(config: PageConfig, port: int) -> str:
    """What to open in a browser."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{port}/" + (f"?token={config.token}" if config.token else "")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise ConfigError(f"can't be served at {host}:{port} ({error}); choose another --port or --host") from None
    return listening
