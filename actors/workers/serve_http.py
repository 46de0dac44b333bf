"""Starts the HTTP proxy of Ray Serve, which every application of a command shares."""

from __future__ import annotations

import time

from ray import serve
from ray.exceptions import RayActorError

from actors.workers.reward import FIRST_WAIT_S, MAX_BACKOFF_S
from conf.errors import SettingsError

START_RETRIES = 8
PROXY_WAIT_S = 30.0
"""Time after which no proxy means no HTTP. A controller that was restarted knows none for a moment."""


def start_serve_http(host: str, port: int, what: str) -> None:
    """Starts Serve with HTTP on host:port. If its proxy starts too slowly, Serve replaces it and raises; then retry.

    Raises SettingsError, which names `what` needs it, if Serve already runs without HTTP on this Ray: only its first
    start decides that.
    """
    for attempt in range(START_RETRIES + 1):
        try:
            serve.start(http_options={"host": host, "port": port})
            break
        except (RayActorError, TimeoutError):
            if attempt == START_RETRIES:
                raise
            time.sleep(min(MAX_BACKOFF_S, FIRST_WAIT_S * 2**attempt))
    deadline = time.monotonic() + PROXY_WAIT_S
    while not serve.status().proxies:
        if time.monotonic() >= deadline:
            raise SettingsError(
                f"{what} needs Ray Serve with HTTP, but Serve already runs on this Ray without it: stop it with "
                "`serve shutdown` (a policy run uses it), or start a separate Ray with ray_address=local"
            )
        time.sleep(FIRST_WAIT_S)
