"""Measurements of one GPU that replace predictions: the file that `python -m tests.bench.gpu_policy` writes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from actors.json_files import JsonError, read_record
from conf import Settings, UserError


@dataclass(frozen=True)
class Calibration:
    """Seconds, memory and drift that were measured on one GPU with one model. A value of 0 was not measured."""

    device: str
    """Name of the GPU."""
    model: str
    """`flux.model`."""
    pixels: int
    """Height x width of an image."""
    text_tokens: int
    dtype: str
    lora_rank: int
    checkpoint_every: int
    compiled: bool
    batch: int
    """Rows of the forward passes that were measured."""
    forward_seconds: float
    """A forward pass of the sampler, all `batch` rows."""
    replay_seconds: float
    """A pass of the learner: forward, backward and the reference, all `batch` rows."""
    decode_seconds: float
    """Decoding one image."""
    score_seconds: float = 0.0
    """Scoring one image with SpatialScore."""
    optimizer_seconds: float = 0.0
    """An optimizer step on one GPU."""
    sampling_gib: float = 0.0
    """Peak memory of sampling; transformer, VAE and LoRA included."""
    learning_gib: float = 0.0
    """Peak memory of learning; transformer, VAE, and the LoRA with its optimizer and moving average included."""
    mfu: dict[str, float] = field(default_factory=dict[str, float])
    """Part -> share of the GPU's peak that model FLOPs reached."""
    ratio_drift: list[float] = field(default_factory=list[float])
    """Largest |ratio - 1| of the unchanged policy at each trained denoise step."""


def write_calibration(file: Path, found: Calibration) -> None:
    """Writes the file that `read_calibration` reads."""
    file.write_text(json.dumps(asdict(found), indent=2) + "\n")


def read_calibration(settings: Settings) -> Calibration | None:
    """The measurements of `plan.calibration`; None if it is empty.

    Raises UserError if there is no such file, if it is damaged, or if it was measured with another model or size.
    """
    file = settings.plan.calibration
    if not file:
        return None
    try:
        found = read_record(file, Calibration)
    except FileNotFoundError as error:
        raise UserError(
            f"plan.calibration={file}: there is no such file: write it with `python -m tests.bench.gpu_policy`"
        ) from error
    except JsonError as error:
        raise UserError(f"plan.calibration: {error}: write it again with `python -m tests.bench.gpu_policy`") from error
    flux = settings.flux
    wanted = {
        "model": flux.model,
        "pixels": flux.height * flux.width,
        "text_tokens": flux.max_sequence_length,
        "dtype": flux.dtype,
        "lora_rank": flux.lora_rank,
        "checkpoint_every": flux.checkpoint_every,
        "compiled": flux.compile,
    }
    for name, value in wanted.items():
        if getattr(found, name) != value:
            raise UserError(
                f"plan.calibration={file} was measured with {name}={getattr(found, name)}, but the settings have "
                f"{value}: measure again with these settings, or leave plan.calibration out"
            )
    return found
