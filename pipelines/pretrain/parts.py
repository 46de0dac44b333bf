"""The parts of pretraining: their shares of the time, and their folders."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerFast

from actors.folders import create_folder
from conf import PretrainSettings
from pipelines.pretrain.flux import FluxPhase
from pipelines.pretrain.vlm import VlmPhase
from pipelines.pretrain.workers import run_on_workers
from pipelines.scenes import checkpoints_dir

Part = Literal["text", "vae", "flux", "decoder", "mislabelled", "objects", "vlm"]

SHARES: Mapping[Part, float] = {
    "text": 0.03,
    "vae": 0.08,
    "flux": 0.40,
    "decoder": 0.05,
    "mislabelled": 0.10,
    "objects": 0.12,
    "vlm": 0.22,
}
"""Share of the wall clock of each part."""

TRAINED: Mapping[str, tuple[Part, ...]] = {
    "none": tuple(SHARES),
    "flux": ("flux", "decoder", "mislabelled", "objects"),
    "vlm": ("vlm",),
}
"""The parts that a call trains, by `pretrain.from_shipped`. The other parts are copied from the shipped checkpoints."""

SHIPPED: Mapping[Part, Mapping[str, str]] = {
    "text": {"tokenizer": "flux/tokenizer", "clip": "flux/text_encoder", "t5": "flux/text_encoder_2"},
    "vae": {"vae": "flux/vae"},
    "decoder": {"vae": "flux/vae"},
    "flux": {"flux": "flux/transformer"},
    "mislabelled": {"flux": "flux/transformer"},
    "objects": {"flux": "flux/transformer"},
    "vlm": {".": "qwen2_5_vl"},
}
"""Part -> its folders -> their place among the shipped checkpoints."""


@dataclass
class Pretraining:
    """One call of the command."""

    settings: PretrainSettings
    log: Callable[[str], None]
    start: float = field(default_factory=time.monotonic)

    @property
    def parts(self) -> Path:
        """Folder of the finished parts."""
        return Path(self.settings.out).absolute() / "parts"

    def report(self, line: str) -> None:
        """Logs a line with the elapsed minutes."""
        self.log(f"[{(time.monotonic() - self.start) / 60:5.1f} min] {line}")

    def seconds(self, part: Part) -> float:
        """Returns the wall-clock time of a part. The parts that this call trains divide all of `pretrain.minutes`."""
        trained = TRAINED[self.settings.from_shipped]
        return 60 * self.settings.minutes * SHARES[part] / sum(SHARES[each] for each in trained)

    def missing(self, part: Part) -> bool:
        """Returns whether a part still has to be trained, and logs it."""
        if not (self.parts / part).is_dir():
            self.report(f"{part}: {self.seconds(part):.0f} s")
            return True
        self.report(f"{part}: reused from {self.parts / part}")
        return False

    def run_on_workers(self, work: Callable[[dict[str, Any]], None], phase: FluxPhase | VlmPhase) -> None:
        """Runs a phase on data-parallel workers."""
        run_on_workers(work, phase, self.settings.workers, self.parts / "ray", self.report)


def copy_shipped_parts(run: Pretraining) -> None:
    """Copies the parts that this call does not train from the shipped checkpoints, as if they had been trained here."""
    for part in SHIPPED.keys() - set(TRAINED[run.settings.from_shipped]):
        if not (run.parts / part).is_dir():
            _copy(SHIPPED[part], run.parts / part)


def save_part(folder: Path, **modules: PreTrainedTokenizerFast | torch.nn.Module) -> None:
    """Saves a finished part atomically, each module in a folder of its name."""

    def write(partial: Path) -> None:
        for name, module in modules.items():
            module.save_pretrained(partial / name)  # pyright: ignore[reportCallIssue]

    create_folder(folder, write)


def _copy(shipped: Mapping[str, str], folder: Path) -> None:
    def write(partial: Path) -> None:
        for name, source in shipped.items():
            shutil.copytree(checkpoints_dir(source), partial / name, dirs_exist_ok=True)

    create_folder(folder, write)
