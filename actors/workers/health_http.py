"""GET /health, as an application of Ray Serve of its own: it shares neither process nor queue with POST /score."""

from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(
    ray_actor_options={"num_cpus": 0},
    max_ongoing_requests=10_000,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=1,
)
class Health:
    """Answers as long as the HTTP proxy runs. Serve itself examines and replaces the replicas that score."""

    async def __call__(self, request: Request) -> Any:
        """200 for GET and HEAD. It reads no body, and it needs no token, so that any prober can use it."""
        if request.method not in ("GET", "HEAD"):
            return JSONResponse({"detail": "Method Not Allowed"}, 405, {"Allow": "GET, HEAD"})
        if request.url.path.rstrip("/") != "/health":
            return JSONResponse({"detail": "Not Found"}, 404)
        return JSONResponse({"status": "ok"})
