"""`spatialt2i play`."""

from __future__ import annotations

from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.common.run_folder import writing
from pipelines.play.serve import serve_play


def run(settings: Settings) -> None:
    """Serves the page until it is interrupted."""
    with writing(settings), ray_session(settings):
        serve_play(settings)
