"""A small dataset under review."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scene_pairs import write_scene_pairs


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with forty pairs."""
    write_scene_pairs(tmp_path / "preferences", 40)
    return tmp_path
