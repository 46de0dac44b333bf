"""`reward merge`: the run's SpatialScore with its LoRA folded into the backbone, one directory that needs no PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path

from actors.spatialscore import load
from conf.settings import Settings
from pipelines.reward.locations import replace_folder, reward_folder, served_model


def write_merged(settings: Settings) -> Path:
    """Writes <run_dir>/reward/merged, complete or not at all, and returns it.

    Raises FileNotFoundError where the run has no SpatialScore.
    """
    model, target = load(served_model(settings)).merge(), reward_folder(settings) / "merged"
    made = target.with_name("merged.new")
    shutil.rmtree(made, ignore_errors=True)
    model.save_pretrained(made)
    replace_folder(made, target)
    shutil.rmtree(made)
    return target
