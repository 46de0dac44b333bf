"""Many files are looked at together, and the results keep their order."""

from __future__ import annotations

import threading

import pytest

from pipelines.common.map_files import map_files


def test_results_have_the_order_of_the_files_and_the_files_are_looked_at_together() -> None:
    """The first one waits for the last one: one file after the other would never end."""
    last_seen = threading.Event()

    def look(name: str) -> str:
        if name == "c":
            last_seen.set()
        assert last_seen.wait(20)
        return name.upper()

    assert list(map_files(look, ["a", "b", "c"])) == ["A", "B", "C"]


def test_an_error_is_raised_at_its_place() -> None:
    def look(name: str) -> str:
        if name == "b":
            raise ValueError(name)
        return name

    results = map_files(look, ["a", "b", "c"])
    assert next(results) == "a"
    with pytest.raises(ValueError, match="b"):
        next(results)
