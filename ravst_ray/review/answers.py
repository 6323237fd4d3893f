"""Answers of the server: JSON, errors as a key and a sentence, and the package's own assets."""

from __future__ import annotations

import json
import mimetypes
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from ravst_ray.errors import AbortError, StepError
from ravst_ray.logs import get_logger
from ravst_ray.review.edits import BadEdit
from ravst_ray.review.service import Conflict, UnknownItem

log = get_logger(__name__)

_NO_STORE = {"Cache-Control": "no-store"}
_MISSING = ("missing_file", "unsafe_id", "place_unreachable", "place_forbidden")


class _Ascii(JSONResponse):
    """What isn't ASCII is escaped: a model's text may hold half a character, which UTF-8 can't carry."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def json_answer(content: Any, status: int = 200) -> JSONResponse:
    """Data that is true now, and isn't kept."""
    return _Ascii(content, status, _NO_STORE)


def error_answer(status: int, error: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A stable key, and one sentence for people."""
    return _Ascii({"error": error, "message": message}, status, {**_NO_STORE, **(headers or {})})


def add_errors(app: FastAPI) -> None:
    """Have each error answered with its status."""

    @app.exception_handler(UnknownItem)
    def unknown(request: Request, error: UnknownItem) -> Response:
        return error_answer(404, "unknown_item", str(error))

    @app.exception_handler(BadEdit)
    def bad_edit(request: Request, error: BadEdit) -> Response:
        return error_answer(422, "bad_edit", str(error))

    @app.exception_handler(Conflict)
    def conflict(request: Request, error: Conflict) -> Response:
        return json_answer({"error": "conflict", "message": str(error), "item": error.item}, 409)

    @app.exception_handler(StepError)
    def unusable(request: Request, error: StepError) -> Response:
        return error_answer(404 if error.reason in _MISSING else 422, error.reason, error.message)

    @app.exception_handler(AbortError)
    def not_saved(request: Request, error: AbortError) -> Response:
        return error_answer(503, "not_saved", str(error))

    @app.exception_handler(OSError)
    def unreachable(request: Request, error: OSError) -> Response:
        log.warning("%s: %s", request.url.path, error)
        return error_answer(503, "unreachable", f"the output can't be read at the moment: {error}")

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        found = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
        return error_answer(422, "bad_request", "; ".join(found))

    @app.exception_handler(TimeoutError)  # of a decoder
    def late(request: Request, error: TimeoutError) -> Response:
        return error_answer(504, "decode_deadline", "the file could not be read in time")


def assets() -> dict[str, bytes]:
    """The page's files and the reports' style sheets, by name; nothing else is ever served as a file."""
    found: dict[str, bytes] = {}
    for package, endings in (("ravst_ray.reports", (".css",)), ("ravst_ray.review", (".html", ".css", ".js", ".svg"))):
        folder = resources.files(package) / "assets"
        if folder.is_dir():
            found |= {one.name: one.read_bytes() for one in folder.iterdir() if one.name.endswith(endings)}
    return found


def asset(assets: dict[str, bytes], name: str) -> Response:
    """One of the assets."""
    if name not in assets:
        return error_answer(404, "no_such_page", "there is no such page")
    kind = mimetypes.types_map.get("." + name.rpartition(".")[2], "application/octet-stream")
    return Response(assets[name], media_type=kind, headers={"Cache-Control": "no-cache"})
