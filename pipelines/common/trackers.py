"""The tracker libraries: how a run is created or continued in each, and how an image is given to it.

accelerate's tracker classes do the rest. This module imports neither accelerate nor a library before a tracker starts.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from conf.errors import UserError
from conf.settings import Settings

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
_GRID_PIXELS = 2**28
_starting = threading.Lock()
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")


@dataclass(frozen=True)
class TrackerRun:
    """A run in a tracker."""

    project: str
    title: str
    """Name under which the tracker shows the run."""
    folder: str
    """Folder for files that the library keeps."""
    id: str = ""
    """What the library continues the run by. "": the run is new."""


@dataclass(frozen=True)
class Library:
    """A tracker library that can continue a run."""

    module: str
    tracker: str
    """Class of accelerate.tracking."""
    options: Callable[[TrackerRun, str], dict[str, Any]]
    """(run, id to create or continue it by) -> arguments of the class after the project."""
    id_of: Callable[[Any, str], str] = lambda tracker, given: given
    """(started tracker, id that it was given) -> id to continue the run by."""
    log_image: Callable[[Any, str, Path, int], None] | None = None
    """(tracker, name, PNG file, step). None: the class has `log_images`."""


def _log_trackio_image(tracker: Any, name: str, file: Path, step: int) -> None:
    image = importlib.import_module("trackio").Image
    tracker.log({name: image(str(file))}, step=step)


LIBRARIES: Mapping[str, Library] = {
    "wandb": Library(
        "wandb",
        "WandBTracker",
        lambda run, key: {"id": key, "name": run.title, "resume": "allow", "dir": run.folder},
    ),
    "mlflow": Library(
        "mlflow",
        "MLflowTracker",
        lambda run, key: {"run_id": run.id or None, "run_name": run.title},  # MLflow chooses the id
        id_of=lambda tracker, given: tracker.tracker.info.run_id,
        log_image=lambda tracker, name, file, step: tracker.log_artifact(str(file), name.rpartition("/")[2]),
    ),
    "swanlab": Library(
        "swanlab",
        "SwanLabTracker",
        lambda run, key: {"id": key, "name": run.title, "resume": "allow", "logdir": f"{run.folder}/swanlog"},
    ),
    "comet_ml": Library(
        "comet_ml",
        "CometMLTracker",
        lambda run, key: {"experiment_key": key, "mode": "get_or_create"},
        log_image=lambda tracker, name, file, step: tracker.tracker.log_image(str(file), name=name, step=step),
    ),
    "trackio": Library(
        "trackio",
        "TrackioTracker",
        lambda run, key: {"name": f"{run.title}-{key[:8]}", "resume": "allow"},
        log_image=_log_trackio_image,
    ),
}


def check_trackers(settings: Settings) -> None:
    """Raises UserError if a tracker of `tracking.trackers` is not installed where the driver runs."""
    for name in settings.tracking.trackers:
        module = LIBRARIES[name].module if name in LIBRARIES else name.partition(":")[0]
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            fix = f"pip install {name}" if name in LIBRARIES else f"make {module} importable"
            raise UserError(
                f"tracking.trackers: {name} needs the Python package {module}, which is not installed: {fix} in the "
                "environment of the driver (on a cluster: of the image), or leave the tracker out"
            )


class StartedTracker:
    """A tracker of accelerate, with a run that was created or continued."""

    def __init__(self, name: str, run: TrackerRun) -> None:
        """Raises whatever the library raises, e.g. without a login."""
        with _starting:
            accelerate: Any = importlib.import_module("accelerate")
            accelerate.PartialState(cpu=True)  # its trackers log through it
        self._library = LIBRARIES.get(name)
        if self._library:
            key = run.id or uuid.uuid4().hex
            kind = getattr(importlib.import_module("accelerate.tracking"), self._library.tracker)
            self._tracker = kind(run.project, **self._library.options(run, key))
        else:
            module, _, attribute = name.partition(":")
            key, kind = "", getattr(importlib.import_module(module), attribute)
            folder = {"logging_dir": run.folder} if kind.requires_logging_directory else {}
            self._tracker = kind(run.title, **folder)
        self._tracker.start()
        self.id = self._library.id_of(self._tracker, key) if self._library else ""

    def configure(self, values: Mapping[str, object]) -> None:
        """Records the settings of a new run."""
        self._tracker.store_init_configuration(dict(values))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Records the values of one step."""
        self._tracker.log(dict(values), step=step)

    def log_image(self, name: str, file: Path, step: int) -> None:
        """Records an image, if the library takes images."""
        if self._library and self._library.log_image:
            self._library.log_image(self._tracker, name, file, step)
        elif hasattr(self._tracker, "log_images"):
            from actors.images import decode_image  # here, because the checks of commands import this module

            images = decode_image(file.read_bytes(), max_pixels=_GRID_PIXELS)[None]  # [1, H, W, 3]
            options = {"dataformats": "NHWC"} if self._tracker.name == "tensorboard" else {}
            self._tracker.log_images({name: images}, step=step, **options)

    def finish(self) -> None:
        """Ends the run."""
        self._tracker.finish()


def without_secrets(text: str) -> str:
    """`text` without users and passwords of URLs, and without the values of environment variables that hold secrets."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= 8:
            text = text.replace(value, f"<{name}>")
    return _USER_IN_URL.sub("", text)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested settings as dotted name -> number, truth value or text without secrets."""
    found: dict[str, object] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat(cast("Mapping[str, Any]", value), f"{key}.")
        else:
            found[key] = value if isinstance(value, (bool, int, float)) else without_secrets(str(value))
    return found
