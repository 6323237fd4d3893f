"""What both pages are served with: who may ask, headers, errors, the package's own assets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from ravst_ray.config.review import PageConfig
from ravst_ray.review.answers import add_errors, asset, assets, error_answer
from ravst_ray.review.guard import COOKIE, HEADERS, Guard

Next = Callable[[Request], Awaitable[Response]]


def page_app(config: PageConfig, script: str, close: Callable[[], None]) -> FastAPI:
    """An application that serves the page, and calls ``close`` when it ends.

    Args:
        config: who may ask.
        script: the asset that makes of the page what it is.
        close: frees what was opened.
    """

    @asynccontextmanager
    async def closing(app: FastAPI) -> AsyncIterator[None]:
        yield
        close()

    app = FastAPI(title="ravst review", docs_url=None, redoc_url=None, openapi_url=None, lifespan=closing)
    _guard(app, Guard(config.host, config.token))
    add_errors(app)
    _serve_page(app, script)
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


def _serve_page(app: FastAPI, script: str) -> None:
    """The page itself and its assets."""
    files = assets()
    page = {"index.html": files["index.html"].replace(b"/static/main.js", f"/static/{script}".encode())}

    @app.get("/")
    def index() -> Response:
        return asset(page, "index.html")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        return asset(files, name)
