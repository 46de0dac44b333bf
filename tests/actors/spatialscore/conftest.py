"""A tiny SpatialScore and images for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.spatialscore import SpatialScore
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore


@pytest.fixture(scope="session")
def vlm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen2.5-VL's directory."""
    path = tmp_path_factory.mktemp("qwen2_5_vl")
    save_tiny_vlm(path)
    return path


@pytest.fixture
def model(vlm_dir: Path) -> SpatialScore:
    """A fresh copy for each test."""
    return tiny_spatialscore(vlm_dir)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """uint8 [6, 64, 64, 3]."""
    return np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
