"""Runs one rival over the held-out pairs: an actor in a Ray runtime environment of its own, answers kept on disk."""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray

from actors.files import write_file
from actors.services.budget import BudgetTracker, LocalBudget
from actors.services.endpoint import Key, key_of
from actors.worker_setup import actor_options, init_worker
from conf.baselines import BaselinesSettings
from conf.rewards import JudgeSettings
from conf.settings import Settings
from pipelines.common.paths import preferences_folder, reward_folder
from pipelines.reward.baselines.registry import JUDGES, SCORERS, ScorerContext
from pipelines.reward.baselines.vlm import VlmJudge
from pipelines.reward.data import Pair, read_pairs
from pipelines.reward.predictions import PairJudge, PairPredictions


@dataclass(frozen=True)
class BaselinePlan:
    """What decides a rival's answers: equal plans share their saved answers."""

    name: str
    model: str
    url: str = ""  # judges only
    form: str = ""


class BaselineActor:
    """A rival with the pairs it judges."""

    def __init__(self, plan: BaselinePlan, settings: Settings, pairs: str, run: str, key: Key) -> None:
        """`pairs`, `run`: the folders of the pairs and of the run, absolute."""
        device = init_worker(settings.baselines.threads, settings.baselines.gpus)
        self._pairs = read_pairs(pairs, "test")
        self._rival = open_baseline(plan, settings, str(device), key, run)

    def pairs(self) -> str:
        """A digest of all that is judged, images too, and the number of pairs, as "digest:count"."""
        return f"{content_digest(self._pairs)}:{len(self._pairs)}"

    def judge(self, start: int, stop: int) -> PairPredictions:
        """Judges pairs [start, stop)."""
        return self._rival.judge(self._pairs[start:stop])


def open_baseline(plan: BaselinePlan, settings: Settings, device: str, key: Key, folder: str) -> PairJudge:
    """The rival in this process. `key`: of a judge's endpoint, whose answers and account of calls lie in the run's
    `folder`: `budget` holds over all that the run asks of services."""
    if plan.name in JUDGES:
        account = LocalBudget(BudgetTracker(settings.budget, f"{folder}/account.jsonl"))
        cache = settings.budget.cache or f"{folder}/reward/rivals/answers"
        return VlmJudge(judge_settings(plan, settings.baselines), key, plan.form, cache, account)
    module, function = SCORERS[plan.name].opener.split(":")
    opener = getattr(importlib.import_module(f"pipelines.reward.baselines.{module}"), function)
    return opener(ScorerContext(plan.model, device, settings.baselines.batch_images))


def predict_by_baseline(name: str, settings: Settings, log: Callable[[str], None]) -> PairPredictions:
    """All held-out pairs judged by the rival called `name`; what was judged before is read, not asked again.

    Ray must be initialised. Answers lie in <run_dir>/reward/rivals/<name>-<digest>/. Raises ValueError where a judge's
    key is not set, BudgetReached where its calls cost too much, and what the rival raises while it loads or judges.
    """
    rivals = settings.baselines
    plan = plan_of(name, rivals)
    key = key_of(judge_settings(plan, rivals)) if name in JUDGES else Key("")
    actor: Any = ray.remote(BaselineActor).options(**_options(name, rivals)).remote(
        plan, settings, str(Path(preferences_folder(settings)).absolute()), str(Path(settings.run_dir).absolute()), key
    )  # fmt: skip
    try:
        pairs_digest, _, count = cast(str, ray.get(actor.pairs.remote())).partition(":")
        folder = reward_folder(settings) / "rivals" / f"{name}-{_digest([*vars(plan).values(), pairs_digest])}"
        return _judge_chunks(actor, folder, name, int(count), rivals.chunk_pairs, log)
    finally:
        ray.kill(actor)


def plan_of(name: str, rivals: BaselinesSettings) -> BaselinePlan:
    """Which model, and for a judge which endpoint and form, the settings name."""
    if name in JUDGES:
        entry = JUDGES[name]
        return BaselinePlan(
            name, rivals.models.get(name, entry.model), rivals.urls.get(name, entry.url), rivals.judge_form
        )
    return BaselinePlan(name, rivals.models.get(name, SCORERS[name].model))


def judge_settings(plan: BaselinePlan, rivals: BaselinesSettings) -> JudgeSettings:
    """How a judge's endpoint is called."""
    return JudgeSettings(
        plan.url, plan.model, JUDGES[plan.name].key_variable, rivals.judge_concurrency, retries=rivals.judge_retries,
        price_in=rivals.price_in.get(plan.name, 0.0), price_out=rivals.price_out.get(plan.name, 0.0),
    )  # fmt: skip


def _judge_chunks(
    actor: Any, folder: Path, name: str, count: int, chunk: int, log: Callable[[str], None]
) -> PairPredictions:
    parts, begun, asked = [], time.monotonic(), 0
    for start in range(0, count, chunk):
        stop = min(count, start + chunk)
        file = folder / f"{start:06d}-{stop:06d}.json"
        if file.exists():
            parts.append(_read(file))
            continue
        judged: PairPredictions = ray.get(actor.judge.remote(start, stop))
        answers = {"margin": judged.margin.astype(float).tolist(), "truncated": judged.truncated.tolist()}
        write_file(str(file), json.dumps(answers).encode())
        parts.append(judged)
        asked += stop - start
        rate = asked / (time.monotonic() - begun)
        log(f"{name}: {stop}/{count} pairs  {rate:.1f} pairs/s  {(count - stop) / rate:.0f} s left")
    return PairPredictions.joined(parts)


def _read(file: Path) -> PairPredictions:
    answers = json.loads(file.read_text())
    return PairPredictions(np.array(answers["margin"], np.float32), np.array(answers["truncated"], bool))


def _options(name: str, rivals: BaselinesSettings) -> dict[str, Any]:
    options = actor_options(rivals.threads, rivals.cpus, rivals.gpus)
    if rivals.isolated and name in SCORERS:
        pins = {"packages": list(SCORERS[name].requirements), "pip_install_options": ["--no-deps"]}
        options["runtime_env"] = {**options["runtime_env"], "pip": pins}
    return options


def content_digest(pairs: Sequence[Pair]) -> str:
    """Of the pairs' ids, prompts and pixels, in their order."""
    total = hashlib.sha256()
    for pair in pairs:
        total.update(json.dumps([pair.pair_id, pair.prompt, pair.image_w.shape, pair.image_l.shape]).encode())
        total.update(pair.image_w.tobytes() + pair.image_l.tobytes())
    return total.hexdigest()[:12]


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
