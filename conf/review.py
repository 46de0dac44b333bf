"""Stage 1, by people: who reviews the preference pairs, how, and what is published afterwards."""

from __future__ import annotations

import re
from dataclasses import dataclass

from conf.rules import at_least, between, one_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


@dataclass(frozen=True)
class ReviewSettings:
    """`preferences review`: a page on which people judge each picture of a pair by its relations."""

    reviewers: tuple[str, ...] = ("reviewer_1", "reviewer_2")  # who may log in to review; a login link is made for each
    adjudicators: tuple[str, ...] = ("adjudicator",)  # who decide where reviewers disagree; they review nothing else
    per_pair: int = 2  # people who review a pair
    gold_fraction: float = 0.05  # share of what a reviewer sees whose truth is known, to measure the reviewer
    gold_pairs: str = ""  # folder of pairs whose truth is known; empty: those of the set itself that have `review.gold`
    host: str = "127.0.0.1"  # 0.0.0.0: reachable from other machines; put a proxy with TLS before it
    port: int = 8765  # 0: a free one
    https: bool = False  # the page is reached over TLS, by a proxy: the session cookie then needs it
    lease_minutes: float = 20.0  # a pair on somebody's screen is offered to nobody else in its place for so long
    triage: str = "spatialscore"  # whose doubts order the queue: spatialscore | judge (section `judge`)
    label_studio: str = ""  # folder of files for and from Label Studio; empty: <run_dir>/label_studio
    seed: int = 0  # of the order of pairs and the choice of gold ones

    def __post_init__(self) -> None:
        at_least("review.per_pair", self.per_pair, 1)
        one_of("review.triage", self.triage, ("spatialscore", "judge"))
        between("review.gold_fraction", self.gold_fraction, 0.0, 0.5)
        between("review.port", self.port, 0, 65535)
        at_least("review.lease_minutes", self.lease_minutes, 0.1)
        people = (*self.reviewers, *self.adjudicators)
        for name in people:
            if not _NAME.fullmatch(name):
                raise ValueError(f"review.reviewers must be names of letters, digits and _ . -, got {name!r}")
        if len(set(people)) != len(people):
            raise ValueError(f"review.reviewers and review.adjudicators must all differ, got {', '.join(people)}")
        if len(self.reviewers) < self.per_pair:
            raise ValueError(
                f"review.per_pair must be at most the number of reviewers, got {self.per_pair} with "
                f"{len(self.reviewers)}: name more in review.reviewers"
            )


@dataclass(frozen=True)
class PublishSettings:
    """`preferences publish`: a versioned dataset folder."""

    version: str = "1.0.0"
    out: str = ""  # folder that holds the versions; empty: <run_dir>/published
    name: str = "SpatialReward-Dataset"  # title of the card
    licence: str = "other"  # a Hugging Face licence identifier, for the card
    only_reviewed: bool = False  # leave out the pairs that nobody has reviewed yet
    exports: bool = True  # also in the forms of Pick-a-Pic v2 and HPDv3
    shard_rows: int = 1000  # rows of a parquet file

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise ValueError(f"publish.version must read MAJOR.MINOR.PATCH, e.g. 1.0.0, got {self.version!r}")
        at_least("publish.shard_rows", self.shard_rows, 1)
