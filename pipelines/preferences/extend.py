"""Adds candidates to a build until as many pairs are accepted as are wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

from conf import UserError
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.preferences.build import build_preferences, open_folder
from pipelines.preferences.dataset.reviews import read_reviews
from pipelines.preferences.dataset.source_rows import read_rows
from pipelines.preferences.review.judge_errors import JudgeErrors, judge_errors
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.serve import open_database, open_store

MIN_DECIDED = 30
"""Decided candidates from which a yield is measured."""


@dataclass(frozen=True)
class Count:
    """How far a campaign is."""

    candidates: int  # rows that were made, dropped ones included
    accepted: int
    waiting: int  # pairs that wait for annotators

    @property
    def decided(self) -> int:
        """Candidates that are accepted, rejected or dropped."""
        return self.candidates - self.waiting

    def measured_yield(self, expected: float) -> float:
        """Accepted pairs of a decided candidate; `expected` as long as few are decided."""
        return max(self.accepted, 1) / self.decided if self.decided >= MIN_DECIDED and self.accepted else expected

    def missing(self, target: int, expected: float) -> int:
        """Further candidates for `target` accepted pairs, if those that wait have the same yield."""
        share = self.measured_yield(expected)
        return max(math.ceil((target - self.accepted - self.waiting * share) / share), 0)

    def __str__(self) -> str:
        share = f", yield {self.accepted / self.decided:.0%}" if self.decided else ""
        waiting = f", {self.waiting} wait for annotators" if self.waiting else ""
        return f"{self.accepted} accepted pairs of {self.candidates} candidates{share}{waiting}"


def extend_preferences(
    settings: Settings,
    log: Callable[[str], None] = print,
    build: Callable[[Settings], object] = build_preferences,
) -> Count:
    """Builds further candidates until the target is reached, or until what is left waits for annotators.

    `build` makes the candidates. Returns the count at the end. Raises UserError if nothing was built yet, and what
    `build_preferences` raises.
    """
    cfg = settings.preferences
    target = cfg.target or cfg.pairs
    if open_folder(settings).read_manifest() is None:
        raise UserError("preferences extend needs a finished build: run `spatialt2i preferences build` first")
    while True:
        count = count_pairs(settings)
        missing = count.missing(target, cfg.expected_yield)
        log(f"preferences  {count}; target {target}")
        if (errors := errors_of_judge(settings)) and errors.sample.answers + errors.passed.answers:
            log(f"preferences  {errors}")
        if not missing:
            return count
        rows = max(missing, min(cfg.shard_rows, target))
        log(f"preferences  {rows} candidates are added")
        larger = replace(settings, preferences=replace(cfg, pairs=count.candidates + rows))
        log(f"preferences  {build(larger)}")


def errors_of_judge(settings: Settings) -> JudgeErrors | None:
    """How often people overturned the judge of the run's images; None if no review was started."""
    paths = run_paths(settings)
    if not paths.review_database.exists():
        return None
    rules = {pair.pair_id: pair.rule for pair in PairSet(paths.preferences).pairs()}
    with closing(open_database(settings)) as database:
        votes = open_store(settings, database).votes()
    rows = read_rows(paths.preferences, ["pair_id", "image_check"])
    return judge_errors(rows, rules, votes, settings.review.annotators_per_pair)


def count_pairs(settings: Settings) -> Count:
    """Counts the candidates and the reviews of a run. Raises UserError if the run has no pairs."""
    folder = run_paths(settings).preferences
    reviews = read_reviews(settings)
    statuses = [reviews.of(row)["status"] for row in read_rows(folder, ["pair_id", "review"])]
    candidates = sum(open_folder(settings).parts(0))
    waiting = sum(status in ("pending", "disputed") for status in statuses)
    return Count(candidates, statuses.count("accepted"), waiting)
