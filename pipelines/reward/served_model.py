"""The SpatialScore that the settings of a run name: what it is built from, and where it is loaded from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.json_files import JsonError, read_record
from actors.spatialscore.config import CONFIG_FILE, SpatialScoreConfig
from conf import UserError
from conf.flux import EMBEDDED
from conf.serving import ServingSettings
from conf.settings import Settings
from pipelines.common.paths import spatialscore_folder
from pipelines.scenes import checkpoints_dir

if TYPE_CHECKING:  # torch, which finding the model does not need
    from actors.spatialscore.scorer import SpatialScorer


def served_model(settings: Settings) -> str:
    """The SpatialScore directory that a reward pool loads. Raises UserError if there is none, or if it is damaged."""
    path = spatialscore_folder(settings)
    if not (path / CONFIG_FILE).is_file():
        raise UserError(f"no SpatialScore at {path}: run `spatialt2i reward train` first, or set serving.model")
    try:
        read_record(str(path / CONFIG_FILE), SpatialScoreConfig)
    except JsonError as error:
        raise UserError(f"{error}: train or copy the model again, or set serving.model to another one") from error
    return str(path)


def model_config(settings: Settings) -> SpatialScoreConfig:
    """The configuration of the reward model that stage 2 trains; `embedded` becomes the shipped Qwen2.5-VL."""
    cfg = settings.spatialscore
    return SpatialScoreConfig(
        model=str(checkpoints_dir("qwen2_5_vl")) if cfg.model == EMBEDDED else cfg.model,
        pixels=cfg.pixels,
        instruction=cfg.instruction,
        dtype=cfg.dtype,
        attention=cfg.attention,
        lora_rank=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=cfg.lora_dropout,
        head_width=cfg.head_width,
        log_sigma_min=cfg.log_sigma_min,
        log_sigma_max=cfg.log_sigma_max,
    )


def open_scorer(model: str, serving: ServingSettings) -> SpatialScorer:
    """Loads the SpatialScore directory `model` in this process, on the device that `serving` reserves."""
    from actors.spatialscore.scorer import SpatialScorer
    from actors.worker_setup import init_worker

    device = init_worker(serving.threads, serving.gpus)
    return SpatialScorer.from_pretrained(
        model, device=str(device), threads=serving.threads, batch_images=serving.batch_images
    )
