"""The review over HTTP: a page and the requests that it makes. Everything except the page itself needs a login."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from pipelines.preferences.review.auth import COOKIE, Auth, Session
from pipelines.preferences.review.overview import render_overview
from pipelines.preferences.review.pairs import PRESENCE
from pipelines.preferences.review.queue import ReviewItem, ReviewQueue
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.votes import AlreadyVotedError, NotDisputedError, NothingToUndoError

PAGE = Path(__file__).parent / "page"
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
COOKIE_SECONDS = 30 * 86400
_MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
_ClaimAnswers = Annotated[list[str], Field(max_length=100)]


class Login(BaseModel):
    """The token of a login link."""

    token: str = Field(max_length=200)


class VoteRequest(BaseModel):
    """An annotator's answers about both images of a pair, in the order in which the images were shown."""

    vote_id: str = Field(min_length=8, max_length=64)
    pair_id: str = Field(max_length=200)
    first: _ClaimAnswers
    second: _ClaimAnswers
    seconds: float


def logged_in(request: Request) -> Session:
    """The session of a request. Answers 401 if there is none."""
    session = request.app.state.auth.session(request.cookies.get(COOKIE))
    if session is None:
        raise HTTPException(401, "log in with your link first")
    return session


Reader = Annotated[Session, Depends(logged_in)]


def own_request(session: Reader, x_csrf_token: Annotated[str, Header()] = "") -> Session:
    """The session of a request that changes something. Answers 403 unless the request carries the session's token."""
    if not hmac.compare_digest(x_csrf_token.encode(), session.csrf.encode()):
        raise HTTPException(403, "the request must carry its session's X-CSRF-Token")
    return session


Changer = Annotated[Session, Depends(own_request)]


def create_app(queue: ReviewQueue, store: Store, auth: Auth, https: bool) -> FastAPI:
    """The application. If `https`, the session cookie is sent over TLS only."""
    app = FastAPI(title="SpatialT2I review", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.auth = auth
    app.mount("/page", StaticFiles(directory=PAGE), name="page")

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update({"Cache-Control": "no-store", **SECURITY_HEADERS, **dict(response.headers)})
        return response

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    _add_login(app, auth, https)
    _add_review(app, queue, store)
    return app


def _add_login(app: FastAPI, auth: Auth, https: bool) -> None:
    """The requests about the session."""

    @app.post("/api/login")
    def log_in(login: Login, response: Response) -> dict[str, str]:
        result = auth.log_in(login.token)
        if result is None:
            raise HTTPException(401, "this login link is not valid, or no longer valid: ask for a new one")
        cookie, session = result
        response.set_cookie(COOKIE, cookie, max_age=COOKIE_SECONDS, httponly=True, samesite="strict", secure=https)
        return asdict(session)

    @app.post("/api/logout")
    def log_out(session: Changer, request: Request, response: Response) -> dict[str, str]:
        auth.log_out(request.cookies[COOKIE])
        response.delete_cookie(COOKIE)
        return {}

    @app.get("/api/me")
    def me(session: Reader) -> dict[str, str]:
        return asdict(session)


def _add_review(app: FastAPI, queue: ReviewQueue, store: Store) -> None:
    """The requests about pairs and votes."""

    def reply(session: Session, item: ReviewItem | None) -> dict[str, object]:
        progress = asdict(store.progress(session.annotator, session.stage))
        return {"progress": progress, "item": _item_for_page(item) if item else None}

    @app.post("/api/next")
    def next_pair(session: Changer) -> dict[str, object]:
        return reply(session, queue.next_item(session))

    @app.post("/api/vote")
    def vote(request: VoteRequest, session: Changer) -> dict[str, object]:
        answers = tuple(request.first), tuple(request.second)
        try:
            queue.cast(session, request.vote_id, request.pair_id, answers, request.seconds)
        except (AlreadyVotedError, NotDisputedError) as error:
            raise HTTPException(409, str(error)) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return reply(session, queue.next_item(session))

    @app.post("/api/undo")
    def undo(session: Changer) -> dict[str, object]:
        try:
            return reply(session, queue.undo(session))
        except NothingToUndoError as error:
            raise HTTPException(409, str(error)) from error

    @app.get("/overview")
    def overview(session: Reader) -> HTMLResponse:
        return HTMLResponse(render_overview(queue.overview(session)))

    @app.get("/image/{pair_id}/{key}")
    def image(pair_id: str, key: str, session: Reader) -> Response:
        try:
            content = queue.image(session, pair_id, key)
        except KeyError as error:
            raise HTTPException(404, "no such image") from error
        kinds = (kind for start, kind in _MEDIA_TYPES.items() if content.startswith(start))
        media_type = next(kinds, "application/octet-stream")
        return Response(content, media_type=media_type, headers={"Cache-Control": "private, max-age=86400, immutable"})


def _item_for_page(item: ReviewItem) -> dict[str, object]:
    """What the browser receives about a pair."""
    pair_id = item.pair.pair_id
    return {
        "pair_id": pair_id,
        "prompt": item.pair.prompt,
        "claims": [[PRESENCE], *map(list, item.pair.relations)],
        "images": [f"/image/{pair_id}/{key}" for key in item.images],
        "answers": item.answers,
        "disputed": item.disputed,
    }
