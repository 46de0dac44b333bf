"""The review over HTTP: a page and the requests that it makes. Everything except the page itself needs a login."""

import hmac
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from pipelines.common.http_limits import Limits, answer_invalid
from pipelines.common.terminal import print_error
from pipelines.preferences.claims import Answer
from pipelines.preferences.review.annotation import MAX_NOTE
from pipelines.preferences.review.auth import COOKIE, SESSION_SECONDS, Auth, Session
from pipelines.preferences.review.database import DatabaseUnavailableError
from pipelines.preferences.review.overview import render_overview
from pipelines.preferences.review.queue import GivenAnswers, ReviewItem, ReviewQueue
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.votes import NothingToUndoError, VoteRefusedError

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"review.js": "text/javascript", "review.css": "text/css"}
RETRY_AFTER_S = 5
_MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


class Login(BaseModel):
    """The token of a login link."""

    token: str = Field(max_length=200)


class VoteRequest(BaseModel):
    """An annotator's answers about both images of a pair, in the order in which the images were shown.

    "" stands for a claim that was not asked. With `bad_prompt` the answers do not count.
    """

    vote_id: str = Field(min_length=8, max_length=64)
    pair_id: str
    first: list[Answer]
    second: list[Answer]
    seconds: float = Field(allow_inf_nan=False)
    bad_prompt: bool = False
    note: str = Field(default="", max_length=MAX_NOTE)


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
    app.add_middleware(Limits)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(DatabaseUnavailableError, _answer_unsaved)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/page/{name}")
    def page_file(name: str) -> FileResponse:
        if name not in PAGE_FILES:
            raise HTTPException(404, "no such file")
        return FileResponse(PAGE / name, media_type=PAGE_FILES[name])

    _add_login(app, auth, https)
    _add_review(app, queue, store)
    return app


def _answer_unsaved(request: Request, error: Exception) -> JSONResponse:
    """503 if the database refuses. The page keeps the answers and sends them again."""
    with suppress(OSError):  # standard error may be a file on the same full disk
        print_error(f"a request was not saved: {error}")
    detail = "the server cannot save at the moment: tell the person who runs the review"
    return JSONResponse({"detail": detail}, 503, headers={"Retry-After": str(RETRY_AFTER_S)})


def _add_login(app: FastAPI, auth: Auth, https: bool) -> None:
    """The requests about the session."""

    @app.post("/api/login")
    def log_in(login: Login, response: Response) -> dict[str, str]:
        result = auth.log_in(login.token)
        if result is None:
            raise HTTPException(401, "this login link is not valid, or no longer valid: ask for a new one")
        cookie, session = result
        response.set_cookie(
            COOKIE, cookie, max_age=int(SESSION_SECONDS), httponly=True, samesite="strict", secure=https
        )
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
        round_of_gold = queue.qualification(session)
        qualification = {"pairs": round_of_gold.pairs, "done": round_of_gold.done, "failed": round_of_gold.failed}
        return {
            "progress": progress,
            "qualification": qualification,
            "item": _item_for_page(item) if item else None,
        }

    @app.post("/api/next")
    def next_pair(session: Changer) -> dict[str, object]:
        return reply(session, queue.next_item(session))

    @app.post("/api/ahead")
    def pair_ahead(session: Changer) -> dict[str, object]:
        item = queue.item_ahead(session)
        return {"images": _item_for_page(item)["images"] if item else []}

    @app.post("/api/vote")
    def vote(request: VoteRequest, session: Changer) -> dict[str, object]:
        given = GivenAnswers(tuple(request.first), tuple(request.second), request.bad_prompt, request.note.strip())
        try:
            queue.cast(session, request.vote_id, request.pair_id, given, request.seconds)
        except VoteRefusedError as error:
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

    @app.get("/image")
    def image(pair: str, key: str, session: Reader, full: bool = False) -> Response:
        try:
            content = queue.image(session, pair, key, full)
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
        "claims": [list(claim) for claim in item.pair.claims],
        "asked": [list(claims) for claims in item.asked],
        # In the query, because browsers change some paths: a pair's id may hold any character.
        "images": [f"/image?{urlencode({'pair': pair_id, 'key': key})}" for key in item.images],
        "answers": item.answers,
        "notes": item.notes,
    }
