"""The GPU benchmark: its model is FLUX.1-dev, and all of it runs on a tiny one, with Ray absent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from actors.json_files import read_record
from pipelines.planning.calibration import Calibration
from tests.bench.gpu_models import flux_dev_pipeline


def test_the_full_size_is_that_of_flux_dev() -> None:
    """Parameters of black-forest-labs/FLUX.1-dev's transformer and VAE. On the meta device nothing is made."""
    pipeline = flux_dev_pipeline(torch.device("meta"))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (pipeline.transformer, pipeline.vae)]
    assert sizes == [11_901_408_320, 83_819_683]
    assert {p.dtype for p in pipeline.transformer.parameters()} == {torch.bfloat16}


def test_it_runs_on_a_tiny_model_without_ray(tmp_path: Path) -> None:
    """It measures all that a calibration holds, and the sampler's rows are replayed exactly."""
    out = tmp_path / "calibration.json"
    code = f"from tests.bench.gpu_policy import main; main(['--form', 'tiny', '--out', {str(out)!r}])"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys; sys.modules['ray'] = None; {code}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = read_record(str(out), Calibration)
    assert found.ratio_drift == [0.0] * 5
    measured = (found.forward_seconds, found.replay_seconds, found.decode_seconds, found.score_seconds)
    assert all(value > 0 for value in measured)
    assert (found.batch, found.pixels, found.text_tokens) == (12, 64 * 64, 24)
    assert "scoring an image" in result.stdout
