"""A whole campaign of stage 1 in the scenes world, with generators, judges and annotators that err.

    python -m tests.bench.campaign [accepted pairs] [--folder PATH] [section.key=value ...]

A generator obeys each relation with probability 0.90, the judge errs in 10 % of its answers, and each annotator in 3 %.
Build, review and `preferences extend` follow each other until enough pairs are accepted, and `preferences publish`
writes them. Then the exact checker tells how many of the published pairs are truly good, and what they cost in
candidates, images, answers and votes. The same numbers follow for a campaign without the check of images, and for one
in which two annotators vote on a whole pair, with a third one if they disagree.

With --folder a campaign that was killed continues.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow.dataset as ds

from actors.images import decode_image
from conf import Settings, load
from pipelines.common.paths import run_paths
from pipelines.preferences.claims import Answer, ClaimRule, objects_of, outcome, rule_of
from pipelines.preferences.dataset.publish import publish
from pipelines.preferences.extend import count_pairs, extend_preferences
from pipelines.preferences.review.auth import Session
from pipelines.preferences.review.pairs import PairSet, ReviewPair
from pipelines.preferences.review.queue import GivenAnswers, ReviewQueue
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.review.votes import ReviewStage
from tests.bench.campaign_build import IMAGES, JUDGED, build_campaign, calls_of, with_errors
from tests.support.openai_server import true_answers

ANNOTATOR_ERRS = 0.03
ANNOTATORS = ("ann", "bob")
CHECKED, UNCHECKED = "claims, images checked", "claims, no check"


@dataclass(frozen=True)
class Result:
    """What one campaign gave and cost."""

    name: str
    candidates: int
    accepted: int
    votes: int
    images: int
    judged: int
    strict: int
    good_strict: int
    good: int

    def row(self) -> list[str]:
        """A row of the table."""
        return [
            self.name,
            f"{self.candidates}",
            f"{self.accepted / self.candidates:.1%}",
            f"{self.votes / self.accepted:.2f}",
            f"{self.images / self.accepted:.1f}",
            f"{self.judged / self.accepted:.1f}",
            f"{self.good / self.accepted:.2%}",
            f"{self.good_strict / max(self.strict, 1):.2%} of {self.strict}",
        ]


def truth_of(claims: Sequence[Sequence[str]], image: bytes) -> tuple[Answer, ...]:
    """The true answers about the claims of a pair, for one of its images."""
    texts = [claim[0] + ": there" if len(claim) == 1 else f"{claim[0]} is {claim[1]} {claim[2]}" for claim in claims]
    return cast("tuple[Answer, ...]", tuple(true_answers(decode_image(image), texts)))


def settings_of(run_dir: Path, pairs: int, check: str, overrides: Sequence[str]) -> Settings:
    """The settings of a campaign by services, reviewed by annotators."""
    return load(
        "scenes",
        [
            f"run_dir={run_dir}",
            f"preferences.pairs={pairs}",
            "preferences.shard_rows=50",
            "preferences.writer=chat",
            "preferences.perturber=chat",
            "preferences.reviewer=annotators",
            f"preferences.image_check={check}",
            "preferences.corrupted_fraction=0",
            "preferences.generated_fraction=0",
            "preferences.generators.renderer=0",
            "preferences.generators.seedream=1",
            "writer.max_relations=3",
            "writer.min_words=8",
            "seedream.size=64x64",
            "review.gold_fraction=0",
            f"preferences.target={pairs}",
            *overrides,
        ],
    )


def review(settings: Settings) -> int:
    """Annotators, then an adjudicator, answer until nothing is open. Returns the number of their votes."""
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        queue = open_queue(settings, database, store)
        stages: list[tuple[str, ReviewStage]] = [*((name, "review") for name in ANNOTATORS), ("carl", "adjudication")]
        for name, stage in stages:
            _answer_all(queue, Session(name, stage, ""))
        return len(store.votes())


def _answer_all(queue: ReviewQueue, session: Session) -> None:
    while item := queue.next_item(session):
        pair = item.pair
        given: list[tuple[Answer, ...]] = []
        for key, asked in zip(item.images, item.asked, strict=True):
            image = queue.image(session, pair.pair_id, key, full=True)
            who = (session.annotator, pair.pair_id, zlib.crc32(image))
            answers = with_errors(truth_of(pair.claims, image), ANNOTATOR_ERRS, *who)
            given.append(tuple(answer if claim in asked else "" for claim, answer in enumerate(answers)))
        queue.cast(
            session, f"{session.annotator}-{session.stage}-{pair.pair_id}", pair.pair_id, GivenAnswers(*given), 1.0
        )


def run_campaign(name: str, settings: Settings) -> Result:
    """Builds, reviews and extends until the target is reached, and publishes."""
    target = settings.preferences.target
    build_campaign(settings)
    votes = review(settings)
    while (count := count_pairs(settings)).accepted < target:
        extend_preferences(settings, build=build_campaign)
        votes = review(settings)
    calls = calls_of(settings)
    good = list(_published(settings))
    strict = [is_good for tier, is_good in good if tier == "strict"]
    return Result(
        name, count.candidates, len(good), votes, calls[IMAGES], calls[JUDGED], len(strict), sum(strict),
        sum(is_good for _, is_good in good),
    )  # fmt: skip


def _published(settings: Settings) -> Iterator[tuple[str, bool]]:
    """The tier of each published pair, and whether it truly has it or a better one."""
    folder = run_paths(settings).published / settings.publish.version
    if not folder.exists():
        publish(settings)
    for batch in ds.dataset(folder / "data", format="parquet").to_batches():
        for row in batch.to_pylist():
            relations = [(one["subject"], one["relation"], one["object"]) for one in row["relations"]]
            rule = rule_of(row["kind"], relations, (one["from"] for one in row["perturbations"]), row["n_perturb"])
            claims = [*((name,) for name in objects_of(relations)), *relations]
            tier = _tier(rule, claims, row["image_w"]["bytes"], row["image_l"]["bytes"])
            yield row["review"]["tier"], tier in ("strict", row["review"]["tier"])


def _tier(rule: ClaimRule, claims: Sequence[Sequence[str]], winner: bytes, loser: bytes) -> str | None:
    """The true tier of a pair; None if it is not good."""
    return outcome(rule, truth_of(claims, winner), truth_of(claims, loser)).tier


def whole_pair_votes(settings: Settings) -> Result:
    """The rule before claims were settled one by one, on the same pairs.

    A pair is accepted if two of up to three annotators find it strict as a whole; the third one is asked if the first
    two disagree. There are no other tiers.
    """
    pairs = PairSet(run_paths(settings).preferences)
    votes = accepted = good = 0
    for pair in pairs.pairs():
        images = [pairs.image(pair.pair_id, side) for side in ("w", "l")]
        truths = [truth_of(pair.claims, image) for image in images]

        def judged(name: str, pair: ReviewPair = pair, truths: list[tuple[Answer, ...]] = truths) -> bool:
            sides = (with_errors(truth, ANNOTATOR_ERRS, name, pair.pair_id, i) for i, truth in enumerate(truths))
            return outcome(pair.rule, *sides).tier == "strict"

        verdicts = [judged(name) for name in ANNOTATORS]
        if len(set(verdicts)) > 1:
            verdicts.append(judged("carl"))
        votes += len(verdicts)
        if sum(verdicts) > 1:
            accepted, good = accepted + 1, good + (outcome(pair.rule, *truths).tier == "strict")
    total = count_pairs(settings).candidates
    return Result("whole pairs, no check", total, accepted, votes, 2 * total, 0, accepted, good, good)


def main() -> None:
    """Runs the campaigns and prints the table."""
    parser = argparse.ArgumentParser(description="A simulated campaign of stage 1.")
    parser.add_argument("target", nargs="?", type=int, default=2000, help="accepted pairs")
    parser.add_argument("--folder", default="", help="where the campaigns are kept, so that a killed one continues")
    arguments, overrides = parser.parse_known_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(arguments.folder or temporary)
        results: list[Result] = []
        for name, check in ((CHECKED, "judge"), (UNCHECKED, "none")):
            settings = settings_of(root / check, arguments.target, check, overrides)
            results.append(run_campaign(name, settings))
            _print_row(results[-1].row())
        results.append(whole_pair_votes(settings))
    header = [
        "campaign",
        "candidates",
        "yield",
        "votes/pair",
        "images/pair",
        "judge/pair",
        "truly good",
        "truly strict",
    ]
    for row in (header, *(result.row() for result in results)):
        _print_row(row)
    print(f"{time.perf_counter() - started:.0f} s")


def _print_row(row: Sequence[str]) -> None:
    print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, (24, 10, 6, 10, 11, 10, 10, 18), strict=True)))


if __name__ == "__main__":
    main()
