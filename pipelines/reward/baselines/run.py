"""Runs one baseline on the held-out pairs, in an actor with a runtime environment of its own. Predictions are saved."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.files import write_file
from actors.json_files import record_or_none
from actors.rewards.scorers import runtime_env_of
from actors.services.keys import Key, key_of
from actors.worker_setup import actor_options
from conf.baselines import KIND_OF_RULES, KIND_OF_SCORER
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.common.progress_line import Pace, ProgressLine, counted
from pipelines.common.reward_sources import service_token
from pipelines.reward.baselines.actor import BaselineActor, BaselinePlan, ReadChunk, judge_settings, make_chunks
from pipelines.reward.baselines.own import identity
from pipelines.reward.baselines.position_bias import TwoOrderPredictions, concatenated
from pipelines.reward.baselines.registry import JUDGES, SCORERS
from pipelines.reward.baselines.requirements import require_baselines
from pipelines.reward.baselines.rules import rules_settings
from pipelines.reward.locations import HELD_OUT, pair_source
from pipelines.reward.predictions import KeyedPredictions, PairKey, PairPredictions
from pipelines.reward.row_groups import find_rows


def predict_by_baseline(name: str, settings: Settings, log: Callable[[str], None]) -> KeyedPredictions:
    """Predictions of the baseline called `name` on all held-out pairs that can be read. Saved ones are not made again.

    Ray must be initialized. Raises BudgetReached if a judge's calls cost too much, and the errors of
    `require_baselines` and of the baseline.
    """
    paths = run_paths(settings)
    require_baselines([name], settings)
    plan = plan_of(name, settings)
    actor_class: Any = ray.remote(BaselineActor).options(**_actor_options(name, settings))
    actor = actor_class.remote(plan, settings, paths, _key(plan, settings), os.getcwd())
    try:
        with ProgressLine(name, log) as progress:
            progress.phase("loading the model and judging the held-out pairs")
            ray.get(actor.open.remote())
            return _judge_chunks(actor, plan, settings, progress)
    finally:
        ray.kill(actor)


def plan_of(name: str, settings: Settings) -> BaselinePlan:
    """The model, and for a judge the endpoint and the form, that the settings name."""
    cfg = settings.baselines
    if name in JUDGES:
        judge = JUDGES[name]
        return BaselinePlan(name, cfg.models.get(name, judge.model), cfg.urls.get(name, judge.url), cfg.judge_form)
    if name in KIND_OF_RULES:
        return BaselinePlan(name, repr(rules_settings(name, settings)))  # with the thresholds
    if name in settings.own_rewards():
        return BaselinePlan(name, identity(settings.own_rewards()[name]))
    return BaselinePlan(name, cfg.models.get(name, SCORERS[name].model), revision=cfg.revisions.get(name, ""))


def _judge_chunks(actor: Any, plan: BaselinePlan, settings: Settings, progress: ProgressLine) -> KeyedPredictions:
    """Judges the held-out pairs chunk by chunk, and saves each chunk, so that an interruption loses at most one.

    A chunk without all scores of your own reward is not saved: its service may answer the next time. Returns the
    predictions folder by folder and by id.
    """
    source, rows = pair_source(settings), settings.baselines.chunk_pairs
    folder = run_paths(settings).baselines / f"{plan.name}-{_digest(list(vars(plan).values()))}"
    places = find_rows(source, HELD_OUT)
    count, done, pace = sum(len(place.rows) for place in places), 0, Pace()
    number = {folder: index for index, folder in enumerate(source.folders)}
    parts: list[PairPredictions] = []
    keys: list[PairKey] = []
    for chunk in make_chunks(places, rows):
        read: ReadChunk = ray.get(actor.read.remote(chunk))
        file = folder / f"{done:06d}-{read.digest}.json"
        done += sum(len(place.rows) for place in chunk)
        if not read.pair_ids:
            continue
        predictions = _read(file, len(read.pair_ids))
        if predictions is None:
            judged: PairPredictions = ray.get(actor.judge.remote())
            if plan.name not in settings.own_rewards() or np.isfinite(judged.margin).all():
                _write(file, judged)
            predictions = judged
            progress.finish(counted(done, count, "pairs", pace))
        parts.append(predictions)
        keys += [PairKey(number[name], pair_id) for name, pair_id in zip(read.folders, read.pair_ids, strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return KeyedPredictions(tuple(keys[index] for index in order), concatenated(parts).take(order))


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


def _key(plan: BaselinePlan, settings: Settings) -> Key:
    """Of a judge's endpoint or of your own service; an empty one for all others."""
    if plan.form:
        return key_of(judge_settings(plan, settings.baselines))
    own = settings.own_rewards().get(plan.name)
    return (own and service_token(plan.name, own)) or Key("")


def _actor_options(name: str, settings: Settings) -> dict[str, Any]:
    cfg, own = settings.baselines, settings.own_rewards().get(name)
    if own:
        return actor_options(own.threads, own.cpus, own.gpus, own.node_group, own.runtime_env)
    options = actor_options(cfg.threads, cfg.cpus, cfg.gpus)
    if cfg.isolated and name in SCORERS:
        options["runtime_env"] = runtime_env_of(KIND_OF_SCORER[name], "pip", options["runtime_env"])
    return options


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
