"""Stage 1, manual review: who reviews the preference pairs, how, and what is published afterwards."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.errors import SettingsError
from conf.rules import Section, at_least, between

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
"""The name of an annotator."""
_EVERY_INTERFACE = ("0.0.0.0", "::")
DEFAULT_ANNOTATORS = ("annotator_1", "annotator_2")
DEFAULT_ADJUDICATORS = ("adjudicator",)


@dataclass(frozen=True)
class ReviewSettings(Section):
    """`preferences review`: a page on which annotators judge each image of a pair by its relations."""

    section: ClassVar[str] = "review"

    annotators: tuple[str, ...] = ()
    """Who may log in to review. A login link is made for each name. Others lose access. Empty: those who were invited
    before; at first annotator_1 and annotator_2."""

    adjudicators: tuple[str, ...] = ()
    """Who decides if annotators disagree. Adjudicators review nothing else. Empty: those who were invited before; at
    first adjudicator."""

    annotators_per_pair: int = field(default=2, metadata=at_least(1))
    """Annotators who review each pair. A claim is settled by the majority of them, or by an adjudicator."""

    void_votes: tuple[str, ...] = ()
    """Annotators whose votes are withdrawn for good, e.g. because they clicked at random. They lose access."""

    qualification: int = field(default=0, metadata=at_least(0))
    """Gold pairs that an annotator reviews before any other pair. 0: no qualification round."""

    qualification_share: float = field(default=0.9, metadata=between(0, 1))
    """Fraction of the answers of the qualification round that must be correct."""

    gold_fraction: float = field(default=0.05, metadata=between(0, 0.5))
    """Fraction of the pairs shown to an annotator whose truth is known, to measure the annotator."""

    gold_pairs: str = ""
    """Folder of pairs whose truth is known. Empty: pairs of the dataset with review.gold, or adjudicated ones."""

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 is reachable from other machines: put a proxy with TLS in front of it."""

    address: str = ""
    """Address in the login links, e.g. https://review.example.org. Empty: the address of host and port."""

    port: int = field(default=8765, metadata=between(0, 65535))
    """Port. 0: any free port."""

    https: bool = False
    """The page is reached over TLS through a proxy. The session cookie is then sent over TLS only."""

    lease_minutes: float = field(default=20.0, metadata=at_least(0.1))
    """A pair on an annotator's screen is not offered to anyone else for this many minutes."""

    triage: Literal["spatialscore", "judge"] = "spatialscore"
    """Model that flags doubtful pairs, which are reviewed first: SpatialScore, or the judge (section judge)."""

    label_studio: str = ""
    """Folder of files for and from Label Studio. Empty: <run_dir>/label_studio."""

    label_studio_pairs: int = field(default=0, metadata=at_least(0))
    """Pairs of one export for Label Studio, in the order of the queue. 0: all that still lack votes."""

    seed: int = field(default=0, metadata=at_least(0))
    """Seed of the order of pairs and of the choice of gold pairs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("annotators", "adjudicators"):
            for name in getattr(self, key):
                if not NAME.fullmatch(name):
                    raise SettingsError(f"review.{key} must be names of letters, digits and _ . -, got {name!r}")
        if self.address and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", self.address):
            raise SettingsError(f"review.address must read http://… or https://…, got {self.address!r}")
        if self.host in _EVERY_INTERFACE and not self.address:
            raise SettingsError(
                f"review.host={self.host} is no address that annotators can open: set review.address to the one that "
                "they use, e.g. review.address=https://review.example.org"
            )
        if void := set(self.void_votes) & {*self.annotators, *self.adjudicators}:
            raise SettingsError(
                f"review.void_votes ends the access of its annotators, got {', '.join(sorted(void))} in "
                "review.annotators or review.adjudicators, too: remove the name from one of them"
            )
        names = (*self.annotators, *self.adjudicators)
        if len(set(names)) != len(names):
            raise SettingsError(f"review.annotators and review.adjudicators must all differ, got {', '.join(names)}")
        if self.annotators and len(self.annotators) < self.annotators_per_pair:
            raise SettingsError(
                "review.annotators_per_pair must be at most the number of annotators, got "
                f"{self.annotators_per_pair} with {len(self.annotators)}: add names to review.annotators"
            )


@dataclass(frozen=True)
class PublishSettings(Section):
    """`preferences publish`: a versioned dataset folder."""

    section: ClassVar[str] = "publish"

    version: str = "1.0.0"
    """Version of the dataset, MAJOR.MINOR.PATCH."""

    out: str = ""
    """Folder that holds the versions, or a URI (s3://…, gs://…) that they are copied to. Empty: <run_dir>/published."""

    name: str = "SpatialReward-Dataset"
    """Title of the dataset card."""

    licence: str = "other"
    """Hugging Face licence identifier for the dataset card."""

    unreviewed: bool = False
    """Also publish the pairs that still wait for review. They keep the status pending and have no tier."""

    benchmark_single_edit: int = field(default=0, metadata=at_least(0))
    """Accepted pairs of the split benchmark with one changed relation. Paper: 180."""

    benchmark_multi_edit: int = field(default=0, metadata=at_least(0))
    """Accepted pairs of the split benchmark with two or three changed relations. Paper: 185."""

    exports: bool = True
    """Also write the formats of Pick-a-Pic v2 and HPDv3, of pairs with votes."""

    shard_rows: int = field(default=1000, metadata=at_least(1))
    """Rows of a parquet file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise SettingsError(f"publish.version must read MAJOR.MINOR.PATCH, e.g. 1.0.0, got {self.version!r}")
