"""Published figures: the twelve cells of the paper's Table 2, and whether a cell of ours compares with them.

The paper's figures are those of its project page (github.com/DAGroup-PKU/SpatialT2I, docs/index.html, commit 4ef69d7).
The paper names neither the judges, the sizes and steps of images, nor which set of TIIF-Bench it used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.benchmark.tiif_scores import ATTRIBUTE_RELATION, RELATION, RELATION_REASONING
from pipelines.benchmark.unigen_scores import LAYOUT_2D, LAYOUT_3D

Comparison = Literal["comparable in level", "comparable in the difference only", "not comparable"]

MISSING_LIMIT = 0.01
"""Share of missing answers above which a cell does not compare."""


@dataclass(frozen=True)
class PaperCell:
    """One cell of the paper's Table 2, as a share of 1 unless it is SpatialScore."""

    column: str  # in the paper's words
    benchmark: str  # name in benchmark.names; "" for SpatialScore
    table: str
    cell: str  # name of our cell
    flux: float  # FLUX.1-dev
    flow_grpo: float
    paper: float  # the paper's own model
    answers: int  # denominator of the cell in the published protocol; 0 if the paper does not say
    caveat: str = ""  # why the figure itself is doubtful


_DPG_CAVEAT = (
    "the official script mixes up the categories if it runs in more than one process, as its launcher does "
    "(ELLA issue 56): compare DPG-Bench's overall score instead"
)
_TIIF_CAVEAT = "the paper does not say whether it used testmini or the full set, nor which judge"
_GAP = "not a fraction of all judgements: some are missing from the published figure"

PAPER_CELLS: tuple[PaperCell, ...] = (
    PaperCell("SpatialScore", "", "", "", 2.18, 3.01, 7.81, 0, "their reward model on their prompts"),
    PaperCell("DPG, Relation Spatial", "dpg", "L2", "relation - spatial", 0.871, 0.742, 0.932, 2415, _DPG_CAVEAT),
    PaperCell("TIIF short, BR", "tiif", "group", f"{RELATION}|short", 0.769, 0.851, 0.875, 0, _TIIF_CAVEAT),
    PaperCell("TIIF short, AR", "tiif", "group", f"{ATTRIBUTE_RELATION}|short", 0.608, 0.652, 0.700, 0, _TIIF_CAVEAT),
    PaperCell("TIIF short, RR", "tiif", "group", f"{RELATION_REASONING}|short", 0.584, 0.621, 0.647, 0, _TIIF_CAVEAT),
    PaperCell("TIIF long, BR", "tiif", "group", f"{RELATION}|long", 0.758, 0.577, 0.845, 0, _TIIF_CAVEAT),
    PaperCell("TIIF long, AR", "tiif", "group", f"{ATTRIBUTE_RELATION}|long", 0.677, 0.510, 0.715, 0, _TIIF_CAVEAT),
    PaperCell("TIIF long, RR", "tiif", "group", f"{RELATION_REASONING}|long", 0.645, 0.482, 0.675, 0, _TIIF_CAVEAT),
    PaperCell("Unibench short, 2D", "unigenbench", "sub", LAYOUT_2D, 0.766, 0.726, 0.875, 272, _GAP),
    PaperCell("Unibench short, 3D", "unigenbench", "sub", LAYOUT_3D, 0.667, 0.635, 0.773, 264, _GAP),
    PaperCell("Unibench long, 2D", "unigenbench_long", "sub", LAYOUT_2D, 0.819, 0.445, 0.891, 708),
    PaperCell("Unibench long, 3D", "unigenbench_long", "sub", LAYOUT_3D, 0.742, 0.405, 0.801, 552, _GAP),
)
"""The twelve cells of a model in Table 2, in its order."""


@dataclass(frozen=True)
class PublishedScore:
    """Another published score of FLUX.1-dev, on the benchmark's own scale."""

    benchmark: str
    table: str
    cell: str
    model: str
    value: float
    source: str


PUBLISHED: tuple[PublishedScore, ...] = (
    PublishedScore("dpg", "overall", "overall", "FLUX.1-dev", 82.91, "the paper's text"),
    PublishedScore("dpg", "overall", "overall", "the paper's model", 85.03, "the paper's text"),
    PublishedScore("geneval", "overall", "overall", "FLUX.1-dev", 0.65, "the paper's text"),
    PublishedScore(
        "unigenbench", "primary", "Entity Layout", "FLUX.1-dev", 0.7090, "UniGenBench's leaderboard, Gemini 2.5 Pro"
    ),
    PublishedScore(
        "unigenbench_long",
        "primary",
        "Entity Layout",
        "FLUX.1-dev",
        0.7754,
        "UniGenBench's leaderboard, Gemini 2.5 Pro",
    ),
)


@dataclass(frozen=True)
class Conditions:
    """How a cell of ours came about."""

    benchmark: str
    own_world: bool  # prompts of the scenes world instead of the published ones
    published_files: bool  # checksums agree
    all_prompts: bool  # none was left out
    images_as_published: bool  # as many images of each prompt as the benchmark prescribes
    published_judge: bool  # the judge, or one of the judges, of the benchmark's authors
    missing_share: float  # of the answers


@dataclass(frozen=True)
class Compared:
    """Whether a cell compares with the published figure, and why not."""

    verdict: Comparison
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.verdict}: {'; '.join(self.reasons)}" if self.reasons else self.verdict


def compare(conditions: Conditions, caveat: str = "") -> Compared:
    """Says in words whether a cell compares with a published figure. `caveat`: a doubt about the published figure."""
    against: list[str] = []
    if conditions.own_world:
        against.append("prompts and images are those of the scenes world")
    elif not conditions.published_files:
        against.append("the files are not the published ones")
    if not conditions.all_prompts:
        against.append("only some of the prompts were used")
    if conditions.missing_share > MISSING_LIMIT:
        against.append(f"{conditions.missing_share:.1%} of the answers are missing")
    doubts: list[str] = []
    if not conditions.published_judge:
        doubts.append("another judge, with another scale")
    if not conditions.images_as_published:
        doubts.append("another number of images of each prompt")
    if caveat:
        doubts.append(caveat)
    if against:
        return Compared("not comparable", (*against, *doubts))
    if doubts:
        return Compared("comparable in the difference only", tuple(doubts))
    return Compared("comparable in level", ())
