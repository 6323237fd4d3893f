"""The review page over HTTP: rows, and what people say of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query
from fastapi.responses import Response
from pydantic import Field

from ravst_ray.config.base import StrictModel
from ravst_ray.review.answers import json_answer
from ravst_ray.review.edits import BadEdit
from ravst_ray.review.media import serve_media
from ravst_ray.review.page import page_app
from ravst_ray.review.queue import MAX_PAGE, Section, Wanted
from ravst_ray.review.service import Review
from ravst_ray.review.verdicts import Verdict


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
    app = page_app(review.config, "main.js", review.close)
    _serve_rows(app, review)
    serve_media(app, review)
    return app


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


def _saved(review: Review, line_id: str, item: dict[str, Any]) -> Response:
    return json_answer({"id": line_id, "item": item})
