"""The Ray actor of a baseline: reads a chunk of held-out pairs and judges it, with one chunk in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from actors.services.budget import BudgetTracker, LocalBudget
from actors.services.keys import Key
from actors.worker_setup import init_worker
from conf.baselines import KIND_OF_RULES, BaselinesSettings
from conf.rewards import JudgeSettings
from conf.settings import Settings
from pipelines.common.paths import RunPaths
from pipelines.reward.baselines.own import open_own_baseline, place_of
from pipelines.reward.baselines.registry import JUDGES, open_scorer_baseline
from pipelines.reward.baselines.rules import open_rules_baseline
from pipelines.reward.baselines.vlm import JudgeForm, VlmJudge
from pipelines.reward.data import Pair, read_place
from pipelines.reward.predictions import PairJudge, PairPredictions
from pipelines.reward.row_groups import RowPlace


@dataclass(frozen=True)
class BaselinePlan:
    """What determines a baseline's predictions. Equal plans share saved predictions."""

    name: str
    model: str
    url: str = ""  # judges only
    form: JudgeForm | Literal[""] = ""  # judges only
    revision: str = ""  # of a scorer's weights on the hub: a commit or a branch


@dataclass(frozen=True)
class ReadChunk:
    """The pairs of a chunk that can be read, in the order of the file."""

    folders: tuple[str, ...]  # of each pair
    pair_ids: tuple[str, ...]
    digest: str  # of their ids, prompts and pixels


class BaselineActor:
    """A baseline, and the chunk of pairs that it judges next."""

    def __init__(self, plan: BaselinePlan, settings: Settings, paths: RunPaths, key: Key, folder: str) -> None:
        """See `open_baseline`."""
        self._plan, self._settings, self._paths, self._key, self._folder = plan, settings, paths, key, folder
        self._baseline: PairJudge | None = None
        self._pairs: list[Pair] = []

    def open(self) -> None:
        """Loads the model. Not in __init__: what that raises is no UserError in the driver, but a dead actor."""
        place = place_of(self._plan.name, self._settings)
        device = str(init_worker(place.threads, place.gpus))
        self._baseline = open_baseline(self._plan, self._settings, device, self._key, self._paths, self._folder)

    def read(self, places: Sequence[RowPlace]) -> ReadChunk:
        """Reads a chunk and drops the one before. Rows that cannot be read are left out."""
        self._pairs = []  # before the next ones are decoded
        rows = [(place.folder, row) for place in places for row in read_place(place)]
        read = [(folder, row) for folder, row in rows if isinstance(row, Pair)]
        self._pairs = [pair for _, pair in read]
        folders, pair_ids = tuple(folder for folder, _ in read), tuple(pair.pair_id for pair in self._pairs)
        return ReadChunk(folders, pair_ids, content_digest(self._pairs))

    def judge(self) -> PairPredictions:
        """Judges the pairs that were read last."""
        assert self._baseline, "open comes first"
        return self._baseline.judge(self._pairs)


def open_baseline(
    plan: BaselinePlan, settings: Settings, device: str, key: Key, paths: RunPaths, folder: str = ""
) -> PairJudge:
    """Opens the baseline in this process.

    `key`: of a judge's endpoint, or of your own service. `folder`: where your own modules are found, too.
    A judge caches its answers in the run directory. Its calls count towards the budget of the whole run.
    """
    if plan.form:
        budget = LocalBudget(BudgetTracker(settings.budget, str(paths.account)))
        cache = settings.budget.cache or str(paths.answers)
        return VlmJudge(judge_settings(plan, settings.baselines), key, plan.form, cache, budget)
    if plan.name in KIND_OF_RULES:
        return open_rules_baseline(plan.name, settings, device)
    if plan.name in settings.own_rewards():
        return open_own_baseline(plan.name, settings, key, folder)
    return open_scorer_baseline(plan.name, settings.baselines, device)


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


def make_chunks(places: Sequence[RowPlace], rows: int) -> Iterator[list[RowPlace]]:
    """Cuts places into chunks of `rows` rows, the last one of the rest, in the order of the files."""
    chunk: list[RowPlace] = []
    free = rows
    for place in places:
        start = 0
        while start < len(place.rows):
            part = place.rows[start : start + free]
            chunk.append(replace(place, rows=part))
            start, free = start + len(part), free - len(part)
            if not free:
                yield chunk
                chunk, free = [], rows
    if chunk:
        yield chunk


def content_digest(pairs: Sequence[Pair]) -> str:
    """First digits of the SHA-256 of the pairs' ids, prompts and pixels, in order."""
    total = hashlib.sha256()
    for pair in pairs:
        total.update(json.dumps([pair.pair_id, pair.prompt, pair.image_w.shape, pair.image_l.shape]).encode())
        total.update(pair.image_w.tobytes() + pair.image_l.tobytes())
    return total.hexdigest()[:12]
