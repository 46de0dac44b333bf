"""Stage 1, the driver: makes the shards that are missing, says how it goes, and finishes the set."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ray

from actors.services.budget import BudgetReached
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.preferences.dataset.shards import Folder, fingerprint_of, plan_shards
from pipelines.preferences.finalize import finish
from pipelines.preferences.pipeline import plan, sampling_plans
from pipelines.preferences.services import ServiceContext
from pipelines.scenes import checkpoints_dir


@dataclass(frozen=True)
class PreferencesResult:
    """Where the pairs are and how many there are."""

    directory: str
    pairs: int
    train: int
    test: int
    seconds: float  # that making them took; of the first time if they were there already
    built: bool  # False: a complete build was found

    def __str__(self) -> str:
        how = f"made in {self.seconds:.0f} s" if self.built else "were there already"
        return f"{self.pairs} pairs {how} ({self.train} to train, {self.test} to test) in {self.directory}"


class RowsLeft(RuntimeError):
    """A service did not answer for some rows. Its text says how many and why."""


def build_preferences(settings: Settings) -> PreferencesResult:
    """Makes the preference pairs of a run, on the Ray of this process. A complete build is left as it is.

    Raises ValueError if the run's folder holds a build with other settings or a service's key is not set, BudgetReached
    if calls cost too much, RowsLeft if a service did not answer: the next start goes on with what was made.
    """
    started = time.perf_counter()
    own = settings.preferences
    if own.generated_fraction and settings.flux.model != EMBEDDED:
        raise ValueError(
            f"generated pairs are drawn and judged in the scenes world, which has flux.model={EMBEDDED}, got "
            f"{settings.flux.model}: set preferences.generated_fraction=0"
        )
    directory = Path(settings.run_dir).absolute() / "preferences"
    folder = Folder(directory, fingerprint(settings))
    manifest = folder.manifest()
    built = manifest is None
    if manifest is None:
        waiting = [shard for shard in plan_shards(own) if not folder.finished(shard)]
        if waiting:
            line = ServiceContext.open(settings, len({shard.generator for shard in waiting}))
            _follow(plan(waiting, settings, folder, line), own.pairs, sum(s.stop - s.start for s in waiting), line)
        manifest = finish(folder, own, {"settings": asdict(own), "seconds": time.perf_counter() - started})
    splits = manifest["by_split"]
    return PreferencesResult(
        str(directory), manifest["pairs"], splits.get("train", 0), splits.get("test", 0), manifest["seconds"], built
    )


def _follow(plan: ray.data.Dataset, total: int, waiting: int, line: ServiceContext) -> None:
    """Runs the plan and says how many rows are done, how fast, how long the rest will take, and what calls cost.

    Raises BudgetReached or RowsLeft if rows are left.
    """
    started, done, left = time.perf_counter(), 0, {}
    if waiting < total:
        print(f"preferences  {total - waiting}/{total} pairs were there already", flush=True)
    for row in plan.iter_rows():
        done += int(row["rows"])
        if row["reason"]:
            left[row["reason"]] = row["message"]
            continue
        rate = done / (time.perf_counter() - started)
        told = f"{total - waiting + done}/{total} pairs  {rate:.0f} pairs/s  {(waiting - done) / rate:.0f} s left"
        spent = line.account.usage()
        print(f"preferences  {told}" + (f"  {spent}" if spent.calls else ""), flush=True)
    if "budget" in left:
        raise BudgetReached(f"{waiting - done} pairs are not made: {left['budget']}")
    if left:
        raise RowsLeft(f"{waiting - done} pairs are not made, start again to make them: {next(iter(left.values()))}")


def fingerprint(settings: Settings) -> str:
    """Of all that decides the rows: not of how many actors make them, or where a service is."""
    own = replace(settings.preferences, generator_actors=1, generator_threads=1, generator_cpus=1.0, generator_gpus=0.0)
    parts: list[object] = [own]
    for used, service in (
        (own.writer == "chat", settings.writer),
        (own.perturber == "chat", settings.perturber),
        (own.generators.seedream > 0, settings.seedream),
        (own.generators.qwen_image > 0, settings.qwen_image),
        (own.generators.hunyuan_image > 0, settings.hunyuan_image),
    ):
        parts += [service.identity()] if used else []
    if not own.generated_fraction:
        return fingerprint_of(parts)
    weights = hashlib.blake2b(digest_size=8)
    for path in sorted(checkpoints_dir("flux").rglob("*.safetensors")):
        weights.update(path.read_bytes())
    return fingerprint_of((*parts, settings.flux, sampling_plans(settings), weights.hexdigest()))
