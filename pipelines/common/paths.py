"""Where stage 2 reads and writes, and what a SpatialScore is built from."""

from __future__ import annotations

from pathlib import Path

from actors.files import join
from actors.spatialscore import SpatialScoreConfig
from actors.spatialscore.model import CONFIG_FILE
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.scenes import checkpoints_dir

DATA = "data"
"""Folder of a published version that holds its parquet files."""


def data_of(version: str) -> str:
    """The parquet folder of a published version, a path or URI."""
    return join(version, DATA)


def preferences_folder(settings: Settings) -> str:
    """The parquet files of stage 1, or of the published version `reward.pairs`."""
    return data_of(settings.reward.pairs) if settings.reward.pairs else f"{settings.run_dir}/preferences"


def reward_folder(settings: Settings) -> Path:
    """Everything stage 2 writes. Absolute, as Ray's workers run elsewhere."""
    return Path(settings.run_dir).absolute() / "reward"


def model_folder(settings: Settings) -> Path:
    """The SpatialScore directory that stage 2 writes, and the reward pool reads."""
    return reward_folder(settings) / "model"


def score_folder(settings: Settings) -> Path:
    """The SpatialScore directory that a run is scored with: `serving.model`, or what its stage 2 writes. Absolute."""
    return Path(settings.serving.model).absolute() if settings.serving.model else model_folder(settings)


def served_model(settings: Settings) -> str:
    """`score_folder` for a reward pool to load. Raises FileNotFoundError, with the mend, where there is none."""
    path = score_folder(settings)
    if not (path / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"no SpatialScore at {path}: run `spatialt2i reward train` first, or set serving.model")
    return str(path)


def model_config(settings: Settings) -> SpatialScoreConfig:
    """The reward model's own settings, `embedded` resolved to the shipped Qwen2.5-VL."""
    wanted = settings.spatialscore
    return SpatialScoreConfig(
        model=str(checkpoints_dir("qwen2_5_vl")) if wanted.model == EMBEDDED else wanted.model,
        pixels=wanted.pixels, instruction=wanted.instruction, dtype=wanted.dtype, attention=wanted.attention,
        lora_rank=wanted.lora_rank, lora_alpha=wanted.lora_alpha, lora_dropout=wanted.lora_dropout,
        head_width=wanted.head_width, log_sigma_min=wanted.log_sigma_min, log_sigma_max=wanted.log_sigma_max,
    )  # fmt: skip
