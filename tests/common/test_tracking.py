"""Experiment trackers receive every row once, whatever fails, and cannot disturb the run."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actors.json_lines import append_row
from conf import SettingsError, load
from conf.errors import UserError
from pipelines.common import tracking as module
from pipelines.common.paths import RunPaths
from pipelines.common.trackers import LIBRARIES, StartedTracker, TrackerRun, check_trackers, without_secrets
from pipelines.common.tracking import TrackedLog, Tracking, tracking
from pipelines.policy.run_log import track_policy
from pipelines.reward.train import track_fit
from tests.support.trackers import FailingTracker

FAILING = "tests.support.trackers:FailingTracker"
TENSORBOARD = "accelerate.tracking:TensorBoardTracker"


def logs_of(paths: RunPaths) -> tuple[TrackedLog, TrackedLog]:
    return (
        TrackedLog(paths.metrics, "policy", "iteration"),
        TrackedLog(paths.evaluations, "evaluation", "iteration", paths.evaluation_image),
    )


def record(paths: RunPaths, *versions: int, reward: float = 0.5) -> None:
    """One row for each version, one evaluation of the last, and its image."""
    paths.images.mkdir(parents=True, exist_ok=True)
    for version in versions:
        append_row(paths.metrics, {"iteration": version, "reward_mean": reward, "kl": float("nan")})
    measures = {"sharpness": {"mean": 3.0}}
    append_row(paths.evaluations, {"iteration": versions[-1], "reward_mean": 2 * reward, "measures": measures})
    Image.new("RGB", (8, 4), "red").save(paths.evaluation_image(versions[-1]))


def track(paths: RunPaths, tracker: str) -> None:
    """One driver: it begins to track, and ends."""
    settings = load("scenes", [f"run_dir={paths.root}", f"tracking.trackers=[{tracker!r}]"])
    with tracking(settings, paths, "policy", logs_of(paths), ("policy",)):
        pass


def test_tensorboard_through_accelerate_gets_curves_and_images_once(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "mine")
    record(paths, 1, 2)
    track(paths, TENSORBOARD)
    record(paths, 3)
    track(paths, TENSORBOARD)  # a resumed driver
    events = EventAccumulator(str(paths.trackers("policy") / "mine-policy"))
    events.Reload()
    scalars = events.Scalars("policy/reward_mean")  # two files of one second may be read in any order
    assert sorted(event.step for event in scalars) == [1, 2, 3]
    assert [event.value for event in events.Scalars("evaluation/reward_mean")] == [1.0, 1.0]
    assert [(image.step, image.width, image.height) for image in events.Images("evaluation/images")] == [
        (2, 8, 4),
        (3, 8, 4),
    ]
    assert [event.value for event in events.Scalars("evaluation/measures.sharpness.mean")] == [3.0, 3.0]
    assert "policy/kl" not in events.Tags()["scalars"]


def test_both_stages_send_what_they_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailingTracker, "taken", [])
    paths = RunPaths(tmp_path)
    settings = load("scenes", [f"run_dir={tmp_path}", f"tracking.trackers=[{FAILING!r}]"])
    record(paths, 1)
    paths.reward.mkdir()
    append_row(paths.reward_metrics, {"step": 10, "loss": 0.7})
    with track_policy(settings), track_fit(settings):
        pass
    names = {name for _, values in FailingTracker.taken for name in values}
    assert {"policy/reward_mean", "evaluation/reward_mean", "reward/loss"} <= names
    assert sorted(step for step, _ in FailingTracker.taken) == [1, 1, 10]


def test_a_stage_that_begins_anew_is_sent_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailingTracker, "taken", [])
    paths = RunPaths(tmp_path)
    record(paths, 1, 2)
    track(paths, FAILING)
    for file in (paths.metrics, paths.evaluations):
        file.unlink()
    record(paths, 1, reward=0.25)
    track(paths, FAILING)
    assert [(step, values) for step, values in FailingTracker.taken if "policy/reward_mean" in values] == [
        (1, {"policy/iteration": 1.0, "policy/reward_mean": 0.5}),
        (2, {"policy/iteration": 2.0, "policy/reward_mean": 0.5}),
        (1, {"policy/iteration": 1.0, "policy/reward_mean": 0.25}),
    ]


def test_a_tracker_that_fails_is_logged_once_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setattr(FailingTracker, "error", "https://ann:pw@host refused 0123456789abcdef")
    monkeypatch.setattr(FailingTracker, "taken", [])
    monkeypatch.setattr(FailingTracker, "failures", 2)
    paths = RunPaths(tmp_path)
    record(paths, 1, 2)
    feed = Tracking(FAILING, TrackerRun("p", "mine", str(tmp_path)), tmp_path / "state.json", {})
    for missing in (3, 3, 0):
        feed.send(logs_of(paths))
        assert feed.unsent == missing
    assert feed.failures == 2 and [step for step, _ in FailingTracker.taken] == [1, 2, 2]
    (warning,) = caplog.messages
    assert "ConnectionError: https://host refused <WANDB_API_KEY>" in warning


def test_a_tracker_that_hangs_does_not_hold_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.1)
    released = threading.Event()
    monkeypatch.setattr(FailingTracker, "log", lambda *arguments, **options: released.wait())
    paths = RunPaths(tmp_path)
    record(paths, 1)
    track(paths, FAILING)
    released.set()
    assert "did not take the last rows" in caplog.text


def test_a_resumed_driver_continues_the_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the arguments that wandb.init documents; the library itself is not needed."""
    begun: list[dict[str, Any]] = []
    shown = SimpleNamespace(log=lambda *arguments, **options: None, finish=lambda: None)
    library = SimpleNamespace(
        init=lambda **options: begun.append(options) or shown,
        config=SimpleNamespace(update=lambda *arguments, **options: None),
        Image=lambda image: image.shape,
    )
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.setattr(module, "check_trackers", lambda settings: None)
    paths = RunPaths(tmp_path / "mine")
    record(paths, 1)
    track(paths, "wandb")
    record(paths, 2)
    track(paths, "wandb")
    first, second = begun
    assert first == second and len(first["id"]) == 32
    assert (first["project"], first["name"], first["resume"]) == ("spatialt2i", "mine-policy", "allow")


def test_mlflow_is_continued_by_the_id_that_it_chose() -> None:
    library = LIBRARIES["mlflow"]
    assert library.options(TrackerRun("p", "mine", ""), "key")["run_id"] is None
    assert library.options(TrackerRun("p", "mine", "", "chosen"), "key")["run_id"] == "chosen"
    started = SimpleNamespace(tracker=SimpleNamespace(info=SimpleNamespace(run_id="chosen")))
    assert library.id_of(started, "key") == "chosen"


def test_a_missing_package_is_refused_with_its_fix() -> None:
    with pytest.raises(UserError, match="no_such_package, which is not installed: make no_such_package importable"):
        check_trackers(load("scenes", ["tracking.trackers=['no_such_package:Tracker']"]))
    with pytest.raises(SettingsError, match=r"no tracker 'wandbb': did you mean wandb"):
        load("scenes", ["tracking.trackers=[wandbb]"])


def test_every_library_names_a_class_of_accelerate() -> None:
    import accelerate.tracking

    assert [name for name, library in LIBRARIES.items() if not hasattr(accelerate.tracking, library.tracker)] == []


def test_secrets_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "long enough")
    assert without_secrets("s3://k:v@bucket long enough") == "s3://bucket <MLFLOW_TRACKING_PASSWORD>"


def test_a_tracker_without_images_gets_its_curves(tmp_path: Path) -> None:
    tracker = StartedTracker(FAILING, TrackerRun("p", "mine", str(tmp_path)))
    tracker.log_image("evaluation/images", tmp_path / "absent.png", 1)
