"""`reward merge`: the run's SpatialScore with its LoRA folded into the backbone, one directory that needs no PEFT."""

from __future__ import annotations

from pathlib import Path

from actors.files import write_folder
from actors.spatialscore import load
from conf.settings import Settings
from pipelines.common.paths import reward_folder
from pipelines.reward.served_model import served_model


def write_merged(settings: Settings) -> Path:
    """Writes <run_dir>/reward/merged, complete or not at all, and returns it.

    Raises FileNotFoundError where the run has no SpatialScore.
    """
    model, target = load(served_model(settings)).merge(), reward_folder(settings) / "merged"
    write_folder(target, model.save_pretrained)
    return target
