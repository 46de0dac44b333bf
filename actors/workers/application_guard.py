"""Ends the Serve applications of a driver that is gone for good.

Serve's applications outlive their driver, so that its successor takes them over. If none comes, their replicas would
hold their GPUs for ever. The guard is a detached actor that expects to hear from the driver; a successor finds it by
its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

BEAT_S = 10.0
"""Time between two signs of life."""
FIRST_BEAT_S = 60.0
STARTS = 3
"""Attempts to reach a guard at the start, and seconds for each: one that is removing applications ends afterwards."""
NAMESPACE = "spatialt2i"


class ApplicationGuard:
    """Removes an owner's applications, and ends itself, after a time without `beat`. It runs as a detached actor."""

    def __init__(self, owner: str, limit_s: float) -> None:
        self._suffix, self._limit_s = f"-{owner_digest(owner)}", limit_s
        self._ending = False
        self._heard, self._lock = time.monotonic(), threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def beat(self, limit_s: float) -> bool:
        """The driver lives, and has this limit. Returns whether the guard stays."""
        with self._lock:  # a removal ends before the driver goes on, and starts its applications again
            self._heard, self._limit_s = time.monotonic(), limit_s
            return not self._ending

    def _watch(self) -> None:
        while True:
            time.sleep(min(BEAT_S, self._limit_s) / 2)
            with self._lock:
                silent = time.monotonic() - self._heard
                if silent > self._limit_s and self._remove(silent):
                    self._ending = True
                    ray.kill(ray.get_runtime_context().current_actor)
                    return

    def _remove(self, silent: float) -> bool:
        """Removes the applications. False if Serve does not answer; it is tried again."""
        try:
            for name in [name for name in serve.status().applications if name.endswith(self._suffix)]:
                logging.warning("no driver for %.0f s: the application %s is removed", silent, name)
                serve.delete(name)
        except Exception as error:  # of Serve, whose controller may be starting again
            logging.warning("the applications of a lost driver are not removed yet: %s", error)
            return False
        return True


_GuardActor = ray.remote(ApplicationGuard)


class GuardedApplications:
    """The driver's side: it starts or finds the guard of an owner, and gives signs of life until `close`."""

    def __init__(self, owner: str, limit_s: float) -> None:
        self._owner, self._limit_s = owner, limit_s
        self._closed = threading.Event()
        for _ in range(STARTS):  # before the applications of an earlier driver are taken over
            if self._say(FIRST_BEAT_S):
                break
            time.sleep(1.0)
        else:
            logging.warning("no guard of the Serve applications answers; they stay if this driver is killed")
        self._thread = threading.Thread(target=self._beat, name="application guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the guard. Call it after the applications were removed."""
        self._closed.set()
        self._thread.join()
        end_guard(self._owner)

    def _find(self) -> Any:
        options: dict[str, Any] = {
            "name": _name(self._owner),
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": -1,
        }
        return _GuardActor.options(**options).remote(self._owner, self._limit_s)

    def _beat(self) -> None:
        while not self._closed.wait(min(BEAT_S, self._limit_s / 4)):
            self._say(BEAT_S)

    def _say(self, timeout_s: float) -> bool:
        """Tells the guard that the driver lives. False if it has died, or is ending: the next call starts another."""
        try:
            return ray.get(self._find().beat.remote(self._limit_s), timeout=timeout_s)
        except (RayError, TimeoutError, ValueError):
            return False


def end_guard(owner: str) -> None:
    """Ends the guard of an owner, if there is one. The applications stay."""
    with contextlib.suppress(RayError, ValueError):
        ray.kill(ray.get_actor(_name(owner), NAMESPACE))


def owner_digest(owner: str) -> str:
    """8 hexadecimal digits for a run directory."""
    return hashlib.sha256(owner.encode(errors="surrogateescape")).hexdigest()[:8]


def _name(owner: str) -> str:
    return f"guard-{owner_digest(owner)}"
