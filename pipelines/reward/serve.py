"""`spatialt2i reward serve`: the run's SpatialScore over HTTP, until interrupted."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace

from actors.reward import start_pool
from conf.settings import Settings
from pipelines.reward.locations import served_model


def serve_reward(settings: Settings) -> None:
    """Answers POST /score on `pool.host`:`pool.port`, and returns after SIGINT or SIGTERM. Ray must be initialised."""
    pool_settings = replace(settings.pool, http=True)
    pool = start_pool(pool_settings, served_model(settings))
    print(f"SpatialScore answers POST http://{pool_settings.host}:{pool_settings.port}/score", flush=True)
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        pool.stop()
