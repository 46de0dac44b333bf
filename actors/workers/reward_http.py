"""The reward pool over HTTP: POST /score, as a deployment of Ray Serve. GET /health is one of its own.

{"images": ["<base64 PNG, JPEG or WebP>", ...], "prompts": ["a red circle left of a blue square", ...]}
-> {"mu": [3.1, ...], "sigma": [0.2, ...], "win_probability": [0.7, ...]}

If a token is set, callers send `Authorization: Bearer <token>`. After a 503 send the same request again; the header
Retry-After tells when.
"""

import math
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from ray import serve
from ray.serve.handle import DeploymentHandle

from actors.services.keys import Key
from actors.workers.score_body import Refused
from actors.workers.score_service import Answer, ScoreService, ServiceLimits

CONNECTIONS = 10_000
"""Requests that Serve passes on at once. The service itself counts those whose body is complete."""

# Pages about the interface would be answered without the token, and need scripts of other servers: docs/reward.md.
app = FastAPI(title="SpatialScore", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)


def _finite(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


# Must be the last definition, in a module without postponed annotations: Serve copies the class with the globals that
# exist at this point.
@serve.deployment(
    ray_actor_options={"num_cpus": 0.1},
    max_ongoing_requests=CONNECTIONS,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=5,
)
@serve.ingress(app)  # pyright: ignore[reportUntypedClassDecorator]
class ScoreHttp:
    """Reads requests, refuses invalid ones with a reason, and calls the replicas."""

    def __init__(
        self, scorer: DeploymentHandle[Any], token: Key | None, limits: ServiceLimits, temperature: float | None
    ) -> None:
        self._service = ScoreService(scorer, token, limits, temperature)

    @app.post("/score")
    async def score(self, request: Request) -> dict[str, list[float | None]]:
        """Scores image i under prompt i: `mu`, higher is better, `sigma`, and `win_probability`; null for no number."""
        try:
            scores = await self._service.answer(request)
        except Refused as refused:
            raise HTTPException(refused.status, refused.reason, refused.headers) from refused
        return {name: _finite(values.tolist()) for name, values in vars(scores).items()}

    async def take_answers(self) -> list[Answer]:
        """See ScoreService.take_answers. For the process that prints a line a request."""
        return self._service.take_answers()
