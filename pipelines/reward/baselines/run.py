"""Runs one baseline on the held-out pairs, in an actor with a runtime environment of its own. Predictions are saved."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray

from actors.files import write_file
from actors.json_files import record_or_none
from actors.services.budget import BudgetTracker, LocalBudget
from actors.services.keys import Key, key_of
from actors.worker_setup import actor_options, init_worker
from conf import SettingsError
from conf.baselines import BaselinesSettings
from conf.rewards import JudgeSettings
from conf.settings import Settings
from pipelines.common.paths import RunPaths, run_paths
from pipelines.common.progress_line import Pace, ProgressLine, counted
from pipelines.reward.baselines.position_bias import TwoOrderPredictions, concatenated
from pipelines.reward.baselines.registry import JUDGES, SCORERS, ScorerContext
from pipelines.reward.baselines.vlm import JudgeForm, VlmJudge
from pipelines.reward.data import Pair, read_pairs
from pipelines.reward.locations import HELD_OUT, PairSource, pair_source
from pipelines.reward.predictions import PairJudge, PairPredictions

MAX_BILLIONS_ON_CPU = 1.0
"""Parameters, in billions, of a scorer that may run without a GPU."""


@dataclass(frozen=True)
class BaselinePlan:
    """What determines a baseline's predictions. Equal plans share saved predictions."""

    name: str
    model: str
    url: str = ""  # judges only
    form: JudgeForm | Literal[""] = ""  # judges only
    revision: str = ""  # of a scorer's weights on the hub; "": the newest


@dataclass(frozen=True)
class ActorInfo:
    """What an actor has loaded."""

    pairs: int
    digest: str  # of the pairs


class BaselineActor:
    """A baseline with the pairs that it judges."""

    def __init__(self, plan: BaselinePlan, settings: Settings, pairs: PairSource, paths: RunPaths, key: Key) -> None:
        """Reads the held-out pairs and loads the model."""
        device = init_worker(settings.baselines.threads, settings.baselines.gpus)
        self._pairs = read_pairs(pairs, HELD_OUT).pairs
        self._baseline = open_baseline(plan, settings, str(device), key, paths)

    def info(self) -> ActorInfo:
        """Number and digest of the pairs."""
        return ActorInfo(len(self._pairs), content_digest(self._pairs))

    def judge(self, start: int, stop: int) -> PairPredictions:
        """Judges pairs [start, stop)."""
        return self._baseline.judge(self._pairs[start:stop])


def open_baseline(plan: BaselinePlan, settings: Settings, device: str, key: Key, paths: RunPaths) -> PairJudge:
    """Opens the baseline in this process. `key`: of a judge's endpoint.

    A judge caches its answers in the run directory. Its calls count towards the budget of the whole run.
    """
    if plan.form:
        budget = LocalBudget(BudgetTracker(settings.budget, str(paths.account)))
        cache = settings.budget.cache or str(paths.answers)
        return VlmJudge(judge_settings(plan, settings.baselines), key, plan.form, cache, budget)
    module, function = SCORERS[plan.name].opener.split(":")
    opener = getattr(importlib.import_module(f"pipelines.reward.baselines.{module}"), function)
    return opener(ScorerContext(plan.model, device, settings.baselines.batch_images, plan.revision or "main"))


def predict_by_baseline(name: str, settings: Settings, log: Callable[[str], None]) -> PairPredictions:
    """Predictions of the baseline called `name` on all held-out pairs. Saved predictions are not made again.

    Ray must be initialized. Raises SettingsError if a judge's key is not set or a package is not installed,
    BudgetReached if a judge's calls cost too much, and the errors of `require_device` and of the baseline.
    """
    cfg, paths = settings.baselines, run_paths(settings)
    require_device([name], cfg)
    _require_packages(name, cfg)
    plan = plan_of(name, cfg)
    key = key_of(judge_settings(plan, cfg)) if plan.form else Key("")
    actor_class: Any = ray.remote(BaselineActor).options(**_actor_options(name, cfg))
    actor = actor_class.remote(plan, settings, pair_source(settings), paths, key)
    try:
        with ProgressLine(name, log) as progress:
            progress.phase("reading the held-out pairs and loading the model")
            info: ActorInfo = ray.get(actor.info.remote())
            folder = paths.baselines / f"{name}-{_digest([*vars(plan).values(), info.digest])}"
            return _judge_chunks(actor, folder, info.pairs, cfg.chunk_pairs, progress)
    finally:
        ray.kill(actor)


def require_device(names: Sequence[str], cfg: BaselinesSettings) -> None:
    """Raises SettingsError if a scorer's published weights are too large for the CPU and `cfg` gives it no GPU."""
    for name in names:
        if name in SCORERS and not cfg.gpus and name not in cfg.models and SCORERS[name].billions > MAX_BILLIONS_ON_CPU:
            raise SettingsError(
                f"baselines.gpus is 0, but {name} has {SCORERS[name].billions:g} billion parameters and would need "
                f"minutes an image on a CPU: set baselines.gpus=1 baselines.cpus=8 baselines.threads=8, or name "
                f"smaller weights in baselines.models.{name}"
            )


def _require_packages(name: str, cfg: BaselinesSettings) -> None:
    """Raises SettingsError if a scorer is to use the installed packages, and one of them is missing."""
    if cfg.isolated or name not in SCORERS:
        return
    for requirement in SCORERS[name].requirements:
        package = requirement.partition("==")[0]
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise SettingsError(
                f"the baseline {name} needs the package {package}, which is not installed: set baselines.isolated=true"
            ) from None


def plan_of(name: str, cfg: BaselinesSettings) -> BaselinePlan:
    """The model, and for a judge the endpoint and the form, that the settings name."""
    if name in JUDGES:
        judge = JUDGES[name]
        return BaselinePlan(name, cfg.models.get(name, judge.model), cfg.urls.get(name, judge.url), cfg.judge_form)
    return BaselinePlan(name, cfg.models.get(name, SCORERS[name].model), revision=cfg.revisions.get(name, ""))


def judge_settings(plan: BaselinePlan, cfg: BaselinesSettings) -> JudgeSettings:
    """The endpoint of a judge."""
    return JudgeSettings(
        url=plan.url,
        model=plan.model,
        key_variable=JUDGES[plan.name].key_variable,
        concurrency=cfg.judge_concurrency,
        retries=cfg.judge_retries,
        price_in=cfg.price_in.get(plan.name, 0.0),
        price_out=cfg.price_out.get(plan.name, 0.0),
    )


def _judge_chunks(actor: Any, folder: Path, count: int, chunk: int, progress: ProgressLine) -> PairPredictions:
    """Judges `count` pairs chunk by chunk, and saves each chunk, so that an interruption loses at most one."""
    parts: list[PairPredictions] = []
    pace = Pace()
    for start in range(0, count, chunk):
        stop = min(count, start + chunk)
        file = folder / f"{start:06d}-{stop:06d}.json"
        if saved := _read(file, stop - start):
            parts.append(saved)
            continue
        predictions: PairPredictions = ray.get(actor.judge.remote(start, stop))
        _write(file, predictions)
        parts.append(predictions)
        progress.finish(counted(stop, count, "pairs", pace))
    return concatenated(parts)


def _write(file: Path, predictions: PairPredictions) -> None:
    one_order = predictions.one_order.tolist() if isinstance(predictions, TwoOrderPredictions) else []
    content = {
        "margin": predictions.margin.astype(float).tolist(),
        "truncated": predictions.truncated.tolist(),
        "one_order": one_order,
    }
    write_file(str(file), json.dumps(content).encode())


@dataclass(frozen=True)
class SavedPredictions:
    """The content of a chunk's file."""

    margin: list[float]
    truncated: list[bool]
    one_order: list[float] = field(default_factory=list[float])  # of a judge that was asked in both orders


def _read(file: Path, count: int) -> PairPredictions | None:
    """The saved predictions of a chunk of `count` pairs; None if there are none, or if they are damaged."""
    saved = record_or_none(str(file), SavedPredictions)
    if saved is None or not len(saved.margin) == len(saved.truncated) == count:
        return None
    margin, truncated = np.array(saved.margin, np.float32), np.array(saved.truncated, bool)
    if not saved.one_order:
        return PairPredictions(margin, truncated)
    return TwoOrderPredictions(margin, truncated, np.array(saved.one_order, np.float32))


def _actor_options(name: str, cfg: BaselinesSettings) -> dict[str, Any]:
    options = actor_options(cfg.threads, cfg.cpus, cfg.gpus)
    if cfg.isolated and name in SCORERS:
        pip = {"packages": list(SCORERS[name].requirements), "pip_install_options": ["--no-deps"]}
        options["runtime_env"] = {**options["runtime_env"], "pip": pip}
    return options


def content_digest(pairs: Sequence[Pair]) -> str:
    """First digits of the SHA-256 of the pairs' ids, prompts and pixels, in order."""
    total = hashlib.sha256()
    for pair in pairs:
        total.update(json.dumps([pair.pair_id, pair.prompt, pair.image_w.shape, pair.image_l.shape]).encode())
        total.update(pair.image_w.tobytes() + pair.image_l.tobytes())
    return total.hexdigest()[:12]


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
