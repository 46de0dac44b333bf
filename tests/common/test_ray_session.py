"""Starting a private cluster on a machine that is busy."""

from __future__ import annotations

import pytest
import ray

from conf import UserError, load
from pipelines.common.progress_line import ProgressLine
from pipelines.common.ray_session import _start

TIMEOUT = "The current node timed out during startup. This could happen because ..."


def start(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> list[str]:
    """Starts Ray, whose first starts raise these errors. Returns the lines of progress."""
    lines: list[str] = []

    def init(**options: object) -> None:
        if errors:
            raise errors.pop(0)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with ProgressLine("ray", lines.append) as progress:
        _start(load("scenes"), progress)
    return lines


def test_a_start_that_takes_too_long_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = start(monkeypatch, [Exception(TIMEOUT)])
    assert lines == ["ray  starting on this machine", "ray  starting once more: this machine is busy"]


def test_a_second_timeout_is_a_message_and_other_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Ray must start within 30 s, and did not, in two attempts"):
        start(monkeypatch, [Exception(TIMEOUT), Exception(TIMEOUT)])
    with pytest.raises(ValueError, match="another"):
        start(monkeypatch, [ValueError("another")])
