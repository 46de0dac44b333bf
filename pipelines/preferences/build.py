"""Stage 1, the driver: writes, perturbs, generates, encodes, reviews and saves the missing shards, then finalizes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray

from actors.services.budget import BudgetReached
from conf.settings import Settings
from pipelines.common.fingerprints import SHORT_DIGITS, digest_of, digest_of_files
from pipelines.common.models import check_model
from pipelines.common.paths import run_paths
from pipelines.common.progress_line import ProgressLine
from pipelines.common.resource_wait import logging_waits
from pipelines.common.resources import check_each
from pipelines.common.run_lookup import record_settings
from pipelines.common.scenes_only import check_generated_pairs
from pipelines.preferences import pipeline
from pipelines.preferences.dataset.build_folder import BuildFolder
from pipelines.preferences.dataset.licences import warn_of_licences
from pipelines.preferences.dataset.schema import SCHEMA_VERSION
from pipelines.preferences.dataset.shards import GeneratorName, plan_shards
from pipelines.preferences.dataset.splits import check_benchmark
from pipelines.preferences.dataset.stored_images import claim_masters
from pipelines.preferences.finalize import FINAL_SETTINGS, final_settings, finalize
from pipelines.preferences.progress import BuildProgress
from pipelines.preferences.resources import generator_requests
from pipelines.preferences.services import ServiceContext
from pipelines.scenes import checkpoints_dir

SIZES = ("pairs", "target", "expected_yield")
"""Settings of section preferences that say how many rows there are. More rows extend a build."""


@dataclass(frozen=True)
class PreferencesResult:
    """The location and the size of a finished build."""

    directory: str
    pairs: int
    train: int
    test: int
    seconds: float  # build time; of the first build if it was complete already
    built: bool  # False: a complete build was found

    def __str__(self) -> str:
        action = f"built in {self.seconds:.0f} s" if self.built else "already complete"
        return f"{self.pairs} pairs {action} ({self.train} train, {self.test} test) in {self.directory}"


class IncompleteBuildError(RuntimeError):
    """A service did not answer for some rows. The message gives their number and the reason."""


def build_preferences(settings: Settings) -> PreferencesResult:
    """Builds the preference pairs of a run, on the Ray of this process. A complete build is left as it is.

    Raises UserError if the run directory holds a build with other settings or the key of a service is not set,
    BudgetReached if the budget is used up, IncompleteBuildError if a service did not answer. The next start continues
    with the shards that are finished.
    """
    started = time.perf_counter()
    check_generated_pairs(settings)
    check_benchmark(settings.preferences, settings.publish)
    for section, weight, generator in (
        ("qwen_image", settings.preferences.generators.qwen_image, settings.qwen_image),
        ("hunyuan_image", settings.preferences.generators.hunyuan_image, settings.hunyuan_image),
    ):
        if weight:
            check_model(settings, f"{section}.model", generator.model, "model_index.json")
    folder = open_folder(settings)
    manifest = folder.read_manifest()
    record_settings(settings, "preferences")
    parts = folder.parts(settings.preferences.pairs)
    ending = final_settings(settings.preferences) | {"candidates": sum(parts)}
    if manifest is not None and manifest.get("ending") == ending:
        return _result(folder, manifest, built=False)

    shards = plan_shards(settings.preferences, parts)
    missing = [shard for shard in shards if not folder.is_finished(shard)]
    if missing:
        warn_of_licences(settings)
        claim_masters(settings)
        generators: list[GeneratorName] = sorted({shard.generator for shard in missing})
        requests = tuple(generator_requests(settings, generators))
        check_each(settings, requests)
        services = ServiceContext.open(settings, branches=len(generators))
        branches: list[ray.data.Dataset] = []
        for generator in generators:
            rows = pipeline.list_rows([shard for shard in missing if shard.generator == generator], settings)
            rows = pipeline.write(rows, settings, services)
            rows = pipeline.perturb(rows, settings, services)
            rows = pipeline.generate(rows, generator, settings, services)
            rows = pipeline.encode(rows, settings)
            rows = pipeline.review(rows, settings, services)
            branches.append(rows)
        reports = pipeline.save(branches, folder, settings, services)
        work = BuildProgress(missing, shards[-1].stop, services)
        with ProgressLine("preferences") as progress:
            progress.phase("starting the workers")
            progress.follow(work.state)
            with logging_waits(requests, progress.log):
                _run(reports, work)
            progress.finish(work.state() or "nothing was generated")

    seconds = (manifest["seconds"] if manifest else 0.0) + (time.perf_counter() - started if missing else 0.0)
    build = {"settings": asdict(settings.preferences), "seconds": seconds, "ending": ending}
    return _result(folder, finalize(folder, settings.preferences, build), built=True)


def open_folder(settings: Settings) -> BuildFolder:
    """The folder of the run's pairs. Raises UserError, without Ray, if it was built with other settings."""
    return BuildFolder(run_paths(settings), fingerprint(settings))


def fingerprint(settings: Settings) -> str:
    """A digest of everything that determines the rows. Numbers of actors and addresses of services do not."""
    cfg = replace(
        settings.preferences,
        generator_actors=1,
        generator_threads=1,
        generator_cpus=1.0,
        generator_gpus=0.0,
        masters="",
    )
    values = {name: value for name, value in asdict(cfg).items() if name not in (*FINAL_SETTINGS, *SIZES)}
    inputs: dict[str, object] = {"preferences": values, "schema_version": SCHEMA_VERSION}
    for used, section in (
        (cfg.writer == "chat", settings.writer),
        (cfg.perturber == "chat", settings.perturber),
        (cfg.image_check == "judge", settings.claim_judge),
        (cfg.generators.seedream > 0, settings.seedream),
        (cfg.generators.qwen_image > 0, settings.qwen_image),
        (cfg.generators.hunyuan_image > 0, settings.hunyuan_image),
    ):
        if used:
            inputs[section.section] = section.identity()
    if cfg.generated_fraction:
        inputs["flux"] = settings.flux
        inputs["sampling"] = pipeline.sampling_plans(settings)
        inputs["weights"] = digest_of_files(checkpoints_dir("flux"))
    return digest_of(inputs)[:SHORT_DIGITS]


def _run(reports: ray.data.Dataset, work: BuildProgress) -> None:
    """Executes the plan. `reports` has one row per shard. Raises BudgetReached or IncompleteBuildError at the end."""
    unfinished: dict[str, str] = {}  # reason -> message
    for report in reports.iter_rows():
        work.saved += int(report["rows"])
        if report["reason"]:
            unfinished[report["reason"]] = report["message"]
    left = work.missing - work.saved
    if "budget" in unfinished:
        raise BudgetReached(f"{left} pairs are missing: {unfinished['budget']}")
    if unfinished:
        message = next(iter(unfinished.values()))
        raise IncompleteBuildError(
            f"{left} pairs are missing because a service did not answer: {message}: start the command again"
        )


def _result(folder: BuildFolder, manifest: dict[str, Any], built: bool) -> PreferencesResult:
    splits = manifest["by_split"]
    return PreferencesResult(
        directory=str(folder.path),
        pairs=manifest["pairs"],
        train=splits.get("train", 0),
        test=splits.get("test", 0),
        seconds=manifest["seconds"],
        built=built,
    )
