from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.policy.flux import FluxPolicy
from conf.flux import FluxSettings
from tests.support.tiny_flux import save_random_flux

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def flux_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FluxPipeline directory with random weights."""
    return save_random_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture
def policy(flux_directory: Path) -> FluxPolicy:
    """A fresh policy with an untrained LoRA."""
    return FluxPolicy.from_pretrained(str(flux_directory), FluxSettings(model=str(flux_directory)))
