"""The review page over HTTP: JSON, the package's own assets, and pieces of the videos."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from pydantic import Field

from ravst_ray.config.base import StrictModel
from ravst_ray.logs import get_logger
from ravst_ray.review.answers import add_errors, asset, assets, error_answer, json_answer
from ravst_ray.review.edits import BadEdit
from ravst_ray.review.files import byte_range, pieces, why_unplayable
from ravst_ray.review.guard import COOKIE, HEADERS, Guard
from ravst_ray.review.queue import MAX_PAGE, Section, Wanted
from ravst_ray.review.service import Review
from ravst_ray.review.verdicts import Verdict

log = get_logger(__name__)

_VIDEO = {"Cache-Control": "private, no-cache", "Accept-Ranges": "bytes"}
_WAIT_S = 90.0  # for a decoder, which has a deadline of its own

Next = Callable[[Request], Awaitable[Response]]


class Said(StrictModel):
    """What all that is said of an event carries."""

    video_id: str
    event_num: int
    on: str | None
    reviewer: str | None = Field(None, min_length=1, max_length=80)


class SaidVerdict(Said):
    """The body of ``POST /api/verdict``."""

    what: Literal["accept", "reject", "edit"]
    qa_id: str | None = None
    edit: dict[str, Any] | None = None
    seconds: float | None = Field(None, ge=0, lt=1e6)
    section: Section | None = None


def make_app(review: Review) -> FastAPI:
    """The application for one output; it closes the review when it ends."""

    @asynccontextmanager
    async def closing(app: FastAPI) -> AsyncIterator[None]:
        yield
        review.close()

    app = FastAPI(title="ravst review", docs_url=None, redoc_url=None, openapi_url=None, lifespan=closing)
    _guard(app, Guard(review.config.host, review.config.token))
    add_errors(app)
    _serve_page(app)
    _serve_rows(app, review)
    _serve_media(app, review)
    return app


def _guard(app: FastAPI, guard: Guard) -> None:
    """Let in who may, and put the headers on every answer."""

    @app.middleware("http")
    async def guarded(request: Request, call_next: Next) -> Response:
        refusal = guard.refusal(request.method, request.url.path, request.headers, request.cookies)
        given = request.query_params.get("token", "") if request.url.path == "/" else ""
        if guard.is_token(given) and (refusal is None or refusal.error == "no_token"):
            answer: Response = RedirectResponse("/", status_code=303)
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", path="/")
        elif refusal is not None:
            answer = error_answer(refusal.status, refusal.error, refusal.message)
        else:
            answer = await call_next(request)
        for name, value in HEADERS.items():
            answer.headers[name] = value
        return answer


def _serve_page(app: FastAPI) -> None:
    """The page itself and its assets."""
    files = assets()

    @app.get("/")
    def index() -> Response:
        return asset(files, "index.html")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        return asset(files, name)


def _serve_rows(app: FastAPI, review: Review) -> None:
    """Rows, and what people say of them."""

    @app.get("/api/session")
    def session() -> Response:
        return json_answer(review.session())

    @app.get("/api/queue")
    def queue(
        section: Annotated[list[Section] | None, Query()] = None,
        status: Annotated[list[str] | None, Query()] = None,
        reason: Annotated[list[str] | None, Query()] = None,
        label: Annotated[list[str] | None, Query()] = None,
        task: Annotated[list[str] | None, Query()] = None,
        objects_min: int | None = None,
        objects_max: int | None = None,
        duration_min_s: float | None = None,
        duration_max_s: float | None = None,
        score_min: float | None = None,
        score_max: float | None = None,
        video: str = "",
        reviewed: Literal["", "yes", "no", "second"] = "",
        reviewer: str | None = None,
        after: str | None = None,
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    ) -> Response:
        wanted = Wanted(
            section=section or (),
            status=status or (),
            reason=reason or (),
            label=label or (),
            task=task or (),
            objects_min=objects_min,
            objects_max=objects_max,
            duration_min_s=duration_min_s,
            duration_max_s=duration_max_s,
            score_min=score_min,
            score_max=score_max,
            video=video,
            reviewed=reviewed,
            reviewer=reviewer or review.config.reviewer,
        )
        return json_answer(review.queue(wanted, offset, limit, after))

    @app.get("/api/item")
    def item(video_id: str, event_num: int) -> Response:
        return json_answer(review.item(video_id, event_num))

    @app.get("/api/figures")
    def figures() -> Response:
        return json_answer(review.figures())

    @app.post("/api/verdict")
    def verdict(said: SaidVerdict) -> Response:
        if (said.what == "edit") != (said.edit is not None):
            raise BadEdit("what is edit if and only if there is an edit")
        draft = _draft(review, said, said.what, said.qa_id, said.edit, said.seconds, said.section)
        return _saved(review, *review.verdict(draft))

    @app.post("/api/undo")
    def undo(said: Said) -> Response:
        return _saved(review, *review.undo(_draft(review, said, "undo")))


def _serve_media(app: FastAPI, review: Review) -> None:
    """The videos: pieces of their files, their pictures and their sound."""

    @app.api_route("/api/video", methods=["GET", "HEAD"])
    def video(request: Request, video_id: str) -> Response:
        file = review.video(video_id)
        try:
            wanted = byte_range(request.headers.get("range"), file.size)
        except ValueError:
            return error_answer(416, "no_such_bytes", "the file is shorter", {"Content-Range": f"bytes */{file.size}"})
        first, last = wanted or (0, file.size - 1)
        headers = {**_VIDEO, "Content-Length": str(last - first + 1)}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        body = pieces(file, first, last) if request.method == "GET" else iter(())
        return StreamingResponse(body, 206 if wanted else 200, headers, media_type=file.mime)

    @app.get("/api/timeline")
    async def timeline(video_id: str) -> Response:
        file = await asyncio.to_thread(review.video, video_id)
        found = await _waited(review.pictures.timeline(file))
        why = why_unplayable(found)
        return json_answer(
            {
                "playable": why is None,
                "why_not": why,
                **{name: getattr(found, name) for name in ("container", "codec", "pixels", "end_s", "player_offset_s")},
                **{name: getattr(found.meta, name) for name in ("width", "height", "fps", "has_audio")},
                "starts_s": found.starts_s_T,
                "notes": found.notes,
            }
        )

    @app.get("/api/frame")
    async def frame(video_id: str, time_s: Annotated[float, Query(ge=0, lt=1e7)]) -> Response:
        file = await asyncio.to_thread(review.video, video_id)
        jpeg = await _waited(review.pictures.jpeg(file, time_s))
        if jpeg is None:
            return error_answer(404, "no_picture", f"no picture is shown at {time_s:g} s")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})

    @app.get("/api/waveform")
    async def waveform(video_id: str, bins: Annotated[int, Query(ge=1, le=8000)] = 1000) -> Response:
        file = await asyncio.to_thread(review.video, video_id)
        duration_s = await asyncio.to_thread(review.duration_s, video_id)
        peaks = await _waited(review.pictures.peaks(file, bins, duration_s))
        why = None if peaks is not None else "this video has no sound track that can be read"
        return json_answer({"peaks": peaks, "duration_s": duration_s, "why_not": why})


def _draft(
    review: Review,
    said: Said,
    what: Literal["accept", "reject", "edit", "undo"],
    qa_id: str | None = None,
    edit: dict[str, Any] | None = None,
    seconds: float | None = None,
    section: str | None = None,
) -> Verdict:
    who = said.reviewer or review.config.reviewer
    return Verdict(
        "", who, "", what, said.video_id, said.event_num, said.on, qa_id, edit, seconds=seconds, section=section
    )


async def _waited(future: Any) -> Any:
    return await asyncio.wait_for(asyncio.wrap_future(future), _WAIT_S)


def _saved(review: Review, line_id: str, item: dict[str, Any]) -> Response:
    return json_answer({"id": line_id, "item": item})
