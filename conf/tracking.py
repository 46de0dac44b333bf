"""`tracking`: experiment trackers that receive the curves of stages 2 and 3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from conf.errors import SettingsError
from conf.rules import Section, suggestion

TRACKERS = ("wandb", "mlflow", "swanlab", "comet_ml", "trackio")
"""Libraries whose runs a resumed driver continues."""

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class TrackingSettings(Section):
    """Experiment trackers beside TensorBoard, through the tracker classes of Hugging Face accelerate."""

    section: ClassVar[str] = "tracking"

    trackers: tuple[str, ...] = ()
    """wandb, mlflow, swanlab, comet_ml or trackio, or module:Class of another tracker of accelerate or of your own."""

    project: str = "spatialt2i"
    """Project, or experiment of MLflow, in which each stage of a run is one tracker run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.trackers:
            if name not in TRACKERS and not _IMPORT_PATH.fullmatch(name):
                near = suggestion(name, TRACKERS)
                raise SettingsError(
                    f"tracking.trackers: no tracker {name!r}{near} (known: {', '.join(TRACKERS)}; any other one is "
                    "named by its import path, e.g. accelerate.tracking:AimTracker)"
                )
        if len(set(self.trackers)) != len(self.trackers):
            raise SettingsError(f"tracking.trackers must not repeat an entry, got {list(self.trackers)}")
        if not self.project.strip():
            raise SettingsError("tracking.project must not be empty: write e.g. tracking.project=spatialt2i")
