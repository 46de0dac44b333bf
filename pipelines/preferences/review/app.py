"""The review over HTTP: a page, and a few requests that it makes. Everything but the page itself needs a login."""

import hmac
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from pipelines.preferences.review.annotation import Annotation
from pipelines.preferences.review.auth import COOKIE, Auth, Session
from pipelines.preferences.review.overview import render_overview
from pipelines.preferences.review.pairs import PRESENCE
from pipelines.preferences.review.queue import ReviewItem, ReviewQueue
from pipelines.preferences.review.store import AlreadyVotedError, NotDisputedError, NothingToUndoError, Store

PAGE = Path(__file__).parent / "page"
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_KINDS = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
_Answers = Annotated[list[str], Field(max_length=100)]


class Login(BaseModel):
    """The token of a login link."""

    token: str = Field(max_length=200)


class Answers(BaseModel):
    """A reviewer's answers about both pictures of a pair, in the order in which they were shown."""

    vote_id: str = Field(min_length=8, max_length=64)
    pair_id: str = Field(max_length=200)
    first: _Answers
    second: _Answers
    seconds: float


def logged_in(request: Request) -> Session:
    """The reviewer behind a request. Refuses one without a login."""
    session = request.app.state.doors.session(request.cookies.get(COOKIE))
    if session is None:
        raise HTTPException(401, "log in with your link first")
    return session


Reader = Annotated[Session, Depends(logged_in)]


def own_request(session: Reader, x_csrf_token: Annotated[str, Header()] = "") -> Session:
    """The same for a request that changes something: only our own page can know the session's token."""
    if not hmac.compare_digest(x_csrf_token.encode(), session.csrf.encode()):
        raise HTTPException(403, "the request must carry its session's X-CSRF-Token")
    return session


Changer = Annotated[Session, Depends(own_request)]


def create_app(desk: ReviewQueue, store: Store, doors: Auth, https: bool) -> FastAPI:
    """The application. `https`: the session cookie is sent over TLS only."""
    app = FastAPI(title="SpatialT2I review", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.doors = doors
    app.mount("/page", StaticFiles(directory=PAGE), name="page")

    def told(session: Session, sheet: ReviewItem | None) -> dict[str, object]:
        progress = asdict(store.progress(session.annotator, session.stage))
        return {"progress": progress, "sheet": _for_page(sheet) if sheet else None}

    @app.middleware("http")
    async def harden(request: Request, call_next) -> Response:
        response = await call_next(request)
        response.headers.update({"Cache-Control": "no-store", **SECURITY, **dict(response.headers)})
        return response

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.post("/api/login")
    def log_in(login: Login, response: Response) -> dict[str, str]:
        entered = doors.log_in(login.token)
        if entered is None:
            raise HTTPException(401, "this login link is not valid (any more): ask for a new one")
        cookie, session = entered
        response.set_cookie(COOKIE, cookie, max_age=30 * 86400, httponly=True, samesite="strict", secure=https)
        return asdict(session)

    @app.post("/api/logout")
    def log_out(session: Changer, request: Request, response: Response) -> dict[str, str]:
        doors.log_out(request.cookies[COOKIE])
        response.delete_cookie(COOKIE)
        return {}

    @app.get("/api/me")
    def me(session: Reader) -> dict[str, str]:
        return asdict(session)

    @app.post("/api/next")
    def next_pair(session: Changer) -> dict[str, object]:
        return told(session, desk.next_item(session))

    @app.post("/api/vote")
    def vote(answers: Answers, session: Changer) -> dict[str, object]:
        ballot = Annotation(tuple(answers.first), tuple(answers.second))
        try:
            desk.cast(session, answers.vote_id, answers.pair_id, ballot, answers.seconds)
        except (AlreadyVotedError, NotDisputedError) as error:
            raise HTTPException(409, str(error)) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return told(session, desk.next_item(session))

    @app.post("/api/undo")
    def undo(session: Changer) -> dict[str, object]:
        try:
            return told(session, desk.undo(session))
        except NothingToUndoError as error:
            raise HTTPException(409, str(error)) from error

    @app.get("/overview")
    def overview(session: Reader) -> HTMLResponse:
        return HTMLResponse(render_overview(desk.overview(session)))

    @app.get("/picture/{pair_id}/{key}")
    def picture(pair_id: str, key: str, session: Reader) -> Response:
        try:
            content = desk.image(session, pair_id, key)
        except KeyError as error:
            raise HTTPException(404, "no such picture") from error
        kind = next((kind for start, kind in _KINDS.items() if content.startswith(start)), "application/octet-stream")
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=86400, immutable"})

    return app


def _for_page(sheet: ReviewItem) -> dict[str, object]:
    """What the browser is told about a pair."""
    claims = [[PRESENCE], *map(list, sheet.pair.relations)]
    pair_id = sheet.pair.pair_id
    return {
        "pair_id": pair_id,
        "prompt": sheet.pair.prompt,
        "claims": claims,
        "pictures": [f"/picture/{pair_id}/{key}" for key in sheet.images],
        "answers": sheet.answers,
        "disputed": sheet.disputed,
    }
