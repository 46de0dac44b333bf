"""Every stage's writer under faults. `python -m tests.support.faults FOLDER FAULT…` prints what happened.

Each writer makes version 1, then version 2 under the fault, and, once the fault is gone, version 2 again. The faults of
a disk need a small disk that is mounted at FOLDER: start the program in a namespace of its own, by `unshare -Urm`.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

Fault = Literal["full", "read-only", "killed", "backward clock"]
Writer = Callable[[Path, int], object]
DISK_BYTES = 24 << 20


@dataclass(frozen=True)
class Outcome:
    """What a writer did under a fault."""

    message: str  # of the UserError, or "killed"; "" if the writer finished
    unchanged: bool  # every file of version 1 is as it was; lines may have been added to a log
    leftovers: list[str]  # partials, after the next start has cleaned up
    continued: bool  # the writer worked once the fault was gone


def _settings(root: Path, version: int) -> object:
    from conf import dump, load

    return dump(load("scenes", [f"run_dir={root}", f"policy.seed={version}"]), root / "settings.yaml")


def _pairs(root: Path, version: int) -> object:
    from conf import load
    from pipelines.common.paths import RunPaths
    from pipelines.preferences.dataset.build_folder import BuildFolder
    from pipelines.preferences.dataset.schema import to_table
    from pipelines.preferences.dataset.shards import plan_shards
    from pipelines.preferences.roles.base import Review, RowSpec
    from tests.support.scene_pairs import scene_pairs

    shard = plan_shards(load("scenes", ["preferences.pairs=500"]).preferences)[version - 1]
    pairs = scene_pairs([RowSpec(row, "perturbed", row) for row in range(shard.start, shard.start + 10)])
    review = Review("accepted", ("w",), 1.0, True)
    BuildFolder(RunPaths(root), "abc").write(shard, to_table(pairs, [review] * 10, ["train"] * 10, "abc"), 0, [])
    return None


def _published(root: Path, version: int) -> object:
    from conf import load
    from pipelines.preferences.dataset.publish import publish
    from tests.support.scene_pairs import write_scene_pairs

    if not (root / "preferences").exists():
        write_scene_pairs(root / "preferences", 20)
    return publish(load("scenes", [f"run_dir={root}", f"publish.version={version}.0.0"]))


def _label_studio(root: Path, version: int) -> object:
    from conf import load
    from pipelines.preferences.review.label_studio import export_tasks
    from tests.support.scene_pairs import write_scene_pairs

    if not (root / "preferences").exists():
        write_scene_pairs(root / "preferences", 10)
    return export_tasks(load("scenes", [f"run_dir={root}", f"review.label_studio={root}/tasks-{version}"]))


def _report(root: Path, version: int) -> object:
    from conf import load
    from pipelines.preferences.dataset.report import report
    from tests.support.scene_pairs import write_scene_pairs

    if version == 1:
        write_scene_pairs(root / "preferences", 10)
        return None
    return report(load("scenes", [f"run_dir={root}"]))


def _spatialscore(root: Path, version: int) -> object:
    from actors.folders import write_folder
    from pipelines.common.paths import RunPaths
    from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

    if version == 1:
        save_tiny_vlm(root / "vlm")
    return write_folder(RunPaths(root).reward_model, tiny_spatialscore(root / "vlm").save_pretrained)


def _fit_log(root: Path, version: int) -> object:
    from actors.json_lines import append_row
    from pipelines.common.paths import RunPaths

    RunPaths(root).reward.mkdir(exist_ok=True)
    return append_row(RunPaths(root).reward_metrics, {"step": version, "filler": "x" * 100_000})


def _lora(root: Path, version: int) -> object:
    import torch

    from actors.policy.lora import save_lora
    from conf import load
    from pipelines.common.paths import RunPaths

    state = {"transformer_blocks.0.attn.to_q.lora_B.weight": torch.full((64, 400), float(version))}
    return save_lora(state, load("scenes").flux, RunPaths(root).export)


def _stage_record(root: Path, version: int) -> object:
    from pipelines.common.paths import RunPaths
    from pipelines.operations.stage_cache import StageRecord, write_record

    return write_record(RunPaths(root).stage_record("policy", "policy"), StageRecord("x", "y" * 100_000, version))


def _evaluation(root: Path, version: int) -> object:
    from PIL import Image

    from pipelines.common.paths import RunPaths
    from pipelines.policy.metrics import EvaluationRow
    from pipelines.policy.run_log import RunLog

    numbers: dict[str, Any] = {field.name: 1.0 for field in fields(EvaluationRow) if field.name != "measures"}
    row = EvaluationRow(**{**numbers, "iteration": 1, "images": 2})
    log = RunLog(RunPaths(root))
    try:
        return log.evaluation(replace(row, iteration=version), Image.effect_noise((300, 300), 90).convert("RGB"))
    finally:
        log.close()


WRITERS: dict[str, Writer] = {
    "settings of a run": _settings,
    "preferences build": _pairs,
    "preferences publish": _published,
    "preferences report": _report,
    "preferences to_label_studio": _label_studio,
    "reward train: model": _spatialscore,
    "reward train: log": _fit_log,
    "policy train: LoRA": _lora,
    "run: record of a stage": _stage_record,
}
"""Stage -> its writer. Checkpoints are written by Ray tasks: tests/policy/test_checkpoint.py."""


@contextmanager
def _injected(fault: Fault, disk: Path) -> Iterator[None]:
    """A full or read-only disk inside the block."""
    filler, clock = disk / "filler", time.time
    if fault == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    elif fault == "backward clock":
        now = [clock()]
        time.time = lambda: now.append(now[-1] - 3600) or now[-1]  # type: ignore[func-returns-value]
    elif fault == "full":
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
    try:
        yield
    finally:
        time.time = clock
        if fault == "read-only":
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        filler.unlink(missing_ok=True)


class _KillBeforeMove:
    """A file system of pyarrow that kills the process when a file that was written is to get its name."""

    def __init__(self, system: Any) -> None:
        self._system = system

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)

    def move(self, source: str, target: str) -> None:
        """Never moves anything."""
        _kill_me()


def _kill_me(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed(writer: Writer, root: Path) -> str:
    """Runs a writer in a child process that is killed between its first write and the rename after it."""
    from actors import files

    child = os.fork()
    if not child:
        signal.alarm(60)  # a lock of another thread may be held for ever in a forked process
        known = files.file_system
        files.file_system = lambda location: (_KillBeforeMove(known(location)[0]), known(location)[1])
        Path.rename = Path.replace = _kill_me  # type: ignore[method-assign,assignment]
        try:
            writer(root, 2)
        finally:
            os._exit(0)
    return "killed" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL else ""


def _snapshot(root: Path) -> dict[str, bytes]:
    """Relative path -> content of every file."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _is_unchanged(name: str, before: bytes, after: bytes | None) -> bool:
    return after == before or (name.endswith(".jsonl") and after is not None and after.startswith(before))


def run_stage(writer: Writer, fault: Fault, disk: Path, root: Path) -> Outcome:
    """Runs one writer."""
    from actors.folders import remove_abandoned
    from conf import UserError
    from pipelines.common.disk_faults import explain_disk_faults

    root.mkdir()
    writer(root, 1)
    before, message = _snapshot(root), ""
    with _injected(fault, disk):
        try:
            with explain_disk_faults(root):
                message = _killed(writer, root) if fault == "killed" else str(writer(root, 2) or "")[:0]
        except UserError as error:
            message = str(error)
    after = _snapshot(root)
    unchanged = all(_is_unchanged(name, content, after.get(name)) for name, content in before.items())
    remove_abandoned(root)
    leftovers = [path.name for path in root.rglob("*") if "partial" in path.name or ".tmp" in path.name]
    if message or fault != "backward clock":
        writer(root, 2)
    return Outcome(message, unchanged, leftovers, set(_snapshot(root)) >= set(before))


def run_stages(fault: Any, disk: Path) -> dict[str, dict[str, Any]]:
    """Stage -> outcome."""
    if fault in ("full", "read-only"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True)
    return {
        stage: asdict(run_stage(writer, fault, disk, disk / str(number)))
        for number, (stage, writer) in enumerate(WRITERS.items())
    }


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"
    terminal, sys.stdout = sys.stdout, io.StringIO()
    outcomes: dict[str, dict[str, dict[str, Any]]] = {}
    for fault in sys.argv[2:]:
        folder = Path(sys.argv[1]) / fault
        folder.mkdir()
        outcomes[fault] = run_stages(fault, folder)
    print(json.dumps(outcomes), file=terminal)
