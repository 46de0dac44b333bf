"""The page over HTTP: its files, and POST /api/images, which answers with one JSON object a line as work goes on."""

import json
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from ray import serve
from ray.serve.handle import DeploymentHandle

from actors.reward_input import InputError
from actors.services.keys import Key
from actors.workers.reward import RewardPool
from actors.workers.score_body import Refused
from actors.workers.score_service import check_token
from conf.play import PlaySettings
from pipelines.common.http_limits import Limits, answer_invalid
from pipelines.play.line import Line
from pipelines.play.rules import PromptRules
from pipelines.play.service import Event, PlayService

CONNECTIONS = 1000
"""Requests that Serve passes on at once. The line itself refuses prompts that are too many."""

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"play.js": "text/javascript", "play.css": "text/css"}


class PlayRequest(BaseModel):
    """A prompt, and the seed of both images."""

    prompt: str = Field(max_length=4000)
    seed: int = Field(ge=0, lt=2**32)


def answer_refused(request: Request, error: Exception) -> JSONResponse:
    """The status of a refusal, with its reason."""
    assert isinstance(error, Refused)
    return JSONResponse({"detail": error.reason}, error.status, error.headers)


async def as_lines(first: Event, rest: AsyncGenerator[Event]) -> AsyncGenerator[str]:
    """Events as lines of JSON."""
    yield json.dumps(first) + "\n"
    async for event in rest:
        yield json.dumps(event) + "\n"


app = FastAPI(title="SpatialT2I play", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
app.add_middleware(Limits, images="'self' blob:")
app.add_exception_handler(RequestValidationError, answer_invalid)
app.add_exception_handler(Refused, answer_refused)


# Must be the last definition, in a module without postponed annotations: Serve copies the class with the globals that
# exist at this point.
@serve.deployment(
    ray_actor_options={"num_cpus": 0.1},
    max_ongoing_requests=CONNECTIONS,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=5,
)
@serve.ingress(app)  # pyright: ignore[reportUntypedClassDecorator]
class PlayHttp:
    """Serves the page to everybody who reaches it, and all else to those who have the token."""

    def __init__(
        self,
        sampler: DeploymentHandle[Any],
        rewards: Mapping[str, RewardPool],
        settings: PlaySettings,
        rules: PromptRules,
        about: Mapping[str, Any],
        token: Key | None,
    ) -> None:
        line = Line(settings.replicas, settings.waiting)
        self._service = PlayService(sampler, rewards, line, about["exact"])
        self._rules, self._about, self._token = rules, dict(about), token

    @app.get("/")
    def page(self) -> FileResponse:
        """The page."""
        return FileResponse(PAGE / "index.html")

    @app.get("/page/{name}")
    def page_file(self, name: str) -> FileResponse:
        """Its script or its style sheet."""
        if name not in PAGE_FILES:
            raise HTTPException(404, "no such file")
        return FileResponse(PAGE / name, media_type=PAGE_FILES[name])

    @app.get("/api/about")
    def about(self, request: Request) -> dict[str, Any]:
        """What the page compares: see `describe` of pipelines/play/serve.py."""
        check_token(request, self._token)
        return self._about

    @app.post("/api/images")
    async def images(self, body: PlayRequest, request: Request) -> StreamingResponse:
        """Lines of JSON, see PlayService. 401 without the token, 422 for a prompt that cannot be drawn, 503 if busy."""
        check_token(request, self._token)
        try:
            prompt = self._rules.read(body.prompt)
        except InputError as error:
            raise Refused(422, str(error)) from error
        events = self._service.events(prompt, body.seed)
        first = await anext(events)  # here, so that a refusal has a status
        return StreamingResponse(as_lines(first, events), media_type="application/x-ndjson")
