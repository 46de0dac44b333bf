"""Rewards in Ray Serve that end some time after their driver was killed, if no other driver continues its run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from conf.settings import Settings
from pipelines.common.cluster_address import uses_private_cluster


@contextmanager
def guarded_applications(settings: Settings, owner: str) -> Generator[None]:
    """Inside the block the applications of `owner` have a driver. Without one, `serving.orphan_minutes` begin.

    A private cluster ends with its driver, so nothing is started there.
    """
    if uses_private_cluster(settings):
        yield
        return
    from actors.workers.application_guard import GuardedApplications, end_guard

    if not settings.serving.orphan_minutes:
        end_guard(owner)  # of a driver that was killed, and had a limit
        yield
        return
    guarded = GuardedApplications(owner, settings.serving.orphan_minutes * 60)
    try:
        yield
    finally:
        guarded.close()
