"""`reward merge`: writes the run's SpatialScore with its LoRA merged into the backbone, for use without PEFT."""

from __future__ import annotations

from pathlib import Path

from actors.folders import write_folder
from actors.spatialscore import load
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.reward.served_model import served_model


def write_merged(settings: Settings) -> Path:
    """Writes <run_dir>/reward/merged and returns its path. Raises UserError if the run has no SpatialScore."""
    target = run_paths(settings).reward_merged
    write_folder(target, load(served_model(settings)).merge().save_pretrained)
    return target
