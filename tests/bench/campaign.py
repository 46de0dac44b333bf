"""A whole campaign of stage 1 in the scenes world, with generators, judges and annotators that err.

    python -m tests.bench.campaign [accepted pairs] [section.key=value ...]

An images API obeys each relation with probability 0.90, the judge errs in 10 % of its answers, and each annotator in
3 %. `preferences build`, the review and `preferences extend` follow each other until enough pairs are accepted. Then
the exact checker tells how many of them are truly good, and what they cost in candidates, images, answers and votes.
The same numbers follow for a campaign without the check of images, and for one in which two annotators vote on a whole
pair, with a third one if they disagree.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.images import decode_image
from conf import Settings, load
from pipelines.common.paths import run_paths
from pipelines.common.ray_session import ray_session
from pipelines.preferences.build import build_preferences
from pipelines.preferences.claims import Answer, outcome
from pipelines.preferences.extend import count_pairs, extend_preferences
from pipelines.preferences.review.annotation import Annotation, verdict
from pipelines.preferences.review.auth import Session
from pipelines.preferences.review.pairs import PairSet, ReviewPair
from pipelines.preferences.review.queue import GivenAnswers, ReviewQueue
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from tests.support.openai_server import Behaviour, claims_of, scenes_reply, serving, true_answers

OBEYS, JUDGE_ERRS, ANNOTATOR_ERRS = 0.90, 0.10, 0.03
ANNOTATORS = ("ann", "bob")


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


def errs(probability: float, *what: object) -> bool:
    """Whether somebody errs about something: always the same for the same arguments."""
    return zlib.crc32(repr(what).encode()) < probability * 2**32


def with_errors(answers: Sequence[str], probability: float, *who: object) -> tuple[Any, ...]:
    """The answers of somebody who gives the wrong one with a probability."""
    wrong = {"yes": "no", "no": "yes"}
    return tuple(wrong[one] if errs(probability, *who, i) else one for i, one in enumerate(answers))


def judge_reply(body: dict[str, Any], untrue: bool) -> str:
    """The model's replies: those of the scenes world, but a judge that errs."""
    if body["response_format"]["json_schema"]["name"] != "ClaimAnswers":
        return scenes_reply(body, untrue)
    image, claims = claims_of(body["messages"][0]["content"])
    answers = with_errors(true_answers(image, claims), JUDGE_ERRS, "judge", zlib.crc32(image.tobytes()), *claims)
    return json.dumps({"answers": answers})


def truth_of(pair: ReviewPair, image: bytes) -> list[str]:
    """The true answers about an image of a pair."""
    claims = [
        claim[0] + ": there" if len(claim) == 1 else f"{claim[0]} is {claim[1]} {claim[2]}" for claim in pair.claims
    ]
    return true_answers(decode_image(image), claims)


def settings_of(run_dir: Path, url: str, pairs: int, check: str, overrides: Sequence[str]) -> Settings:
    """The settings of a campaign by services, reviewed by annotators."""
    services = ("writer", "perturber", "seedream", "claim_judge")
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
            *(f"{name}.{key}={value}" for name in services for key, value in {"url": url, "concurrency": 16}.items()),
            *(f"{name}.key_variable=CAMPAIGN_KEY" for name in services),
            *overrides,
        ],
    )


def review(settings: Settings) -> int:
    """Annotators, then an adjudicator, answer until nothing is open. Returns the number of their votes."""
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        queue = open_queue(settings, database, store)
        for name, stage in [*((name, "review") for name in ANNOTATORS), ("carl", "adjudication")]:
            _answer_all(queue, Session(name, stage, ""))  # type: ignore[arg-type]
        return len(store.votes())


def _answer_all(queue: ReviewQueue, session: Session) -> None:
    while item := queue.next_item(session):
        pair = item.pair
        given: list[tuple[Answer, ...]] = []
        for key, asked in zip(item.images, item.asked, strict=True):
            image = queue.image(session, pair.pair_id, key, full=True)
            who = (session.annotator, pair.pair_id, zlib.crc32(image))
            answers = with_errors(truth_of(pair, image), ANNOTATOR_ERRS, *who)
            given.append(tuple(answer if claim in asked else "" for claim, answer in enumerate(answers)))
        queue.cast(
            session, f"{session.annotator}-{session.stage}-{pair.pair_id}", pair.pair_id, GivenAnswers(*given), 1.0
        )


def run_campaign(name: str, target: int, check: str, root: Path, overrides: Sequence[str]) -> Result:
    """Builds, reviews and extends until `target` pairs are accepted."""
    behaviour = Behaviour(reply=judge_reply, obeys=OBEYS)
    with serving(behaviour) as url:
        settings = settings_of(root / name, url, target, check, [f"preferences.target={target}", *overrides])
        build_preferences(settings)
        votes = review(settings)
        while (count := count_pairs(settings)).accepted < target:
            extend_preferences(settings)
            votes = review(settings)
        images = sum("size" in body for body in behaviour.bodies)
        judged = sum("ClaimAnswers" in str(body.get("response_format")) for body in behaviour.bodies)
    accepted = list(_accepted(settings))
    strict = [good for tier, good in accepted if tier == "strict"]
    return Result(
        name, count.candidates, len(accepted), votes, images, judged, len(strict), sum(strict),
        sum(good for _, good in accepted),
    )  # fmt: skip


def _accepted(settings: Settings) -> Iterator[tuple[str, bool]]:
    """The tier of each accepted pair, and whether it truly has it or a better one."""
    pairs = PairSet(run_paths(settings).preferences)
    with closing(open_database(settings)) as database:
        decisions = open_store(settings, database).decisions()
    for pair in pairs.pairs():
        decision = decisions.get(pair.pair_id)
        if decision and decision.status == "accepted":
            winner, loser = (truth_of(pair, pairs.image(pair.pair_id, side)) for side in ("w", "l"))
            result = outcome(pair.rule, winner, loser)  # type: ignore[arg-type]
            assert decision.tier
            yield decision.tier, result.tier in ("strict", decision.tier)


def whole_pair_votes(settings: Settings) -> Result:
    """Two annotators judge whole pairs, all claims each; a third one decides if they disagree."""
    pairs = PairSet(run_paths(settings).preferences)
    votes = accepted = good = strict = good_strict = 0
    for pair in pairs.pairs():
        images = [pairs.image(pair.pair_id, side) for side in ("w", "l")]
        truths = [truth_of(pair, image) for image in images]

        def judged(name: str, pair: ReviewPair = pair, truths: list[list[str]] = truths) -> str:
            sides = (with_errors(truth, ANNOTATOR_ERRS, name, pair.pair_id, i) for i, truth in enumerate(truths))
            return verdict(pair.rule, Annotation(*sides))

        verdicts = [judged(name) for name in ANNOTATORS]
        if len(set(verdicts)) > 1:
            verdicts.append(judged("carl"))
        votes += len(verdicts)
        if verdicts.count("accept") > 1:
            tier = outcome(pair.rule, *truths).tier  # type: ignore[arg-type]
            accepted, good = accepted + 1, good + (tier is not None)
            strict, good_strict = strict + 1, good_strict + (tier == "strict")
    total = count_pairs(settings).candidates
    return Result("whole pairs, no check", total, accepted, votes, 2 * total, 0, strict, good_strict, good)


def main() -> None:
    """Runs the campaigns and prints the table."""
    arguments = sys.argv[1:]
    target = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else 2000
    os.environ.update(CAMPAIGN_KEY="none", RAY_USAGE_STATS_ENABLED="0")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with ray_session(settings_of(root / "ray", "http://127.0.0.1:1", 10, "none", arguments)):
            results = [
                run_campaign("checked", target, "judge", root, arguments),
                run_campaign("claims, no check", target, "none", root, arguments),
            ]
        plain = settings_of(root / "claims, no check", "http://127.0.0.1:1", target, "none", arguments)
        results.append(whole_pair_votes(plain))
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
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, (22, 10, 6, 10, 11, 10, 10, 18), strict=True)))
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
