"""The GPU benchmark: its model is FLUX.1-dev, and all of it runs on a tiny one, with Ray absent."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from tests.bench.gpu_policy import flux_dev_pipeline


def test_the_full_size_is_that_of_flux_dev() -> None:
    """Parameters of black-forest-labs/FLUX.1-dev's transformer and VAE. On the meta device nothing is made."""
    pipeline = flux_dev_pipeline(torch.device("meta"))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (pipeline.transformer, pipeline.vae)]
    assert sizes == [11_901_408_320, 83_819_683]
    assert {p.dtype for p in pipeline.transformer.parameters()} == {torch.bfloat16}


def test_it_runs_on_a_tiny_model_without_ray() -> None:
    code = "import sys; sys.modules['ray'] = None; from tests.bench.gpu_policy import main; main(['--tiny'])"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for what in (
        "sampling 24 images, 6 steps, batch 6",
        "sampling 24 images, 6 steps, batch 24",
        "decoding 24 images",
        "update on 12 x 6, 12 rows",
        "12 x 6, 4 rows",
    ):
        assert what in result.stdout
    drift = re.search(r"\|ratio - 1\| before learning \(the sampler's shape\) +(\S+)", result.stdout)
    assert drift is not None and float(drift[1]) == 0.0
