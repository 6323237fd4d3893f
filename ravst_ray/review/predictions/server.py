"""The page of predictions over HTTP; nothing can be changed through it."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import Response

from ravst_ray.review.answers import json_answer
from ravst_ray.review.media import serve_media
from ravst_ray.review.page import page_app
from ravst_ray.review.predictions.listing import MAX_PAGE, Order, Outcome, Wanted
from ravst_ray.review.predictions.scored import TOTAL
from ravst_ray.review.predictions.service import Predictions


def make_app(predictions: Predictions) -> FastAPI:
    """The application for files of predictions; it closes them when it ends."""
    app = page_app(predictions.config, "predictions.js", predictions.close)
    serve_media(app, predictions)

    @app.get("/api/session")
    def session() -> Response:
        return json_answer(predictions.session())

    @app.get("/api/answers")
    def answers(
        task: Annotated[list[str] | None, Query()] = None,
        text: str = "",
        by: str = TOTAL,
        outcome: Outcome | None = None,
        order: Order = "file",
        run: Annotated[int, Query(ge=0, le=1)] = 0,
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    ) -> Response:
        wanted = Wanted(task or (), text, by, outcome, order, run)
        return json_answer(predictions.page(wanted, offset, limit))

    @app.get("/api/answer")
    def answer(id: str, sample: Annotated[int, Query(ge=0, lt=2**24)] = 0) -> Response:
        return json_answer(predictions.item(id, sample))

    return app
