"""The state of a review: progress, agreement beyond chance, and the bias and pace of each annotator."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines.preferences.review.agreement import cohens_kappa, krippendorffs_alpha
from pipelines.preferences.review.annotation import Annotation, truth
from pipelines.preferences.review.pairs import ReviewPair
from pipelines.preferences.review.triage_scores import TriageOutcome
from pipelines.preferences.review.votes import Vote
from pipelines.preferences.row_values import ReviewStatus

VotesByPair = Mapping[str, Mapping[str, Vote]]
"""Pair id -> annotator -> vote."""


@dataclass(frozen=True)
class AnnotatorStats:
    """The statistics of one annotator. A fraction is None if there is nothing to count."""

    name: str
    pairs: int
    accepts: float  # fraction of the annotator's verdicts
    others_accept: float | None  # fraction of the others' verdicts on the same pairs; the difference is a bias
    unsure: float  # fraction of the annotator's answers
    first_yes: float  # fraction of "yes" about the image that was shown first
    second_yes: float  # the same about the second; random sides make both equal for an unbiased annotator
    gold: float | None  # fraction of the answers about gold pairs that are correct
    gold_pairs: int
    seconds: float  # median of a pair


@dataclass(frozen=True)
class AnnotatorPair:
    """How far the verdicts of two annotators on the same pairs agree."""

    names: tuple[str, str]
    pairs: int
    agreement: float  # fraction of the pairs
    kappa: float | None


@dataclass(frozen=True)
class Overview:
    """The content of the overview page. Agreement is measured before adjudication."""

    statuses: Mapping[ReviewStatus, int]  # status -> pairs
    votes: int
    alpha_verdicts: float | None  # Krippendorff's alpha of verdicts
    alpha_answers: float | None  # Krippendorff's alpha of single answers
    annotators: tuple[AnnotatorStats, ...]
    annotator_pairs: tuple[AnnotatorPair, ...]
    triage: TriageOutcome | None = None  # None if there was no triage, or if the reader must not know

    @property
    def pairs(self) -> int:
        """Number of pairs of the dataset."""
        return sum(self.statuses.values())


def summarise(votes: Sequence[Vote], statuses: Mapping[str, ReviewStatus], gold: Mapping[str, ReviewPair]) -> Overview:
    """The overview of a review. `statuses` are those of the dataset's pairs, `gold` the pairs whose truth is known."""
    reviews = [vote for vote in votes if vote.stage == "review"]
    by_pair: dict[str, dict[str, Vote]] = defaultdict(dict)
    for vote in reviews:
        by_pair[vote.pair_id][vote.annotator] = vote
    units = [list(pair_votes.values()) for pair_votes in by_pair.values()]
    answers = [
        list(labels) for unit in units for labels in zip(*(vote.annotation.answers for vote in unit), strict=True)
    ]
    truths = {name: known for name, pair in gold.items() if (known := truth(pair))}
    names = sorted({vote.annotator for vote in votes})
    reviewers = sorted({vote.annotator for vote in reviews})
    annotator_pairs = (_annotator_pair(first, second, by_pair) for first, second in combinations(reviewers, 2))
    return Overview(
        statuses=Counter(statuses.values()),
        votes=len(votes),
        alpha_verdicts=krippendorffs_alpha([[vote.verdict for vote in unit] for unit in units]),
        alpha_answers=krippendorffs_alpha(answers),
        annotators=tuple(_annotator_stats(name, votes, by_pair, truths) for name in names),
        annotator_pairs=tuple(pair for pair in annotator_pairs if pair),
    )


def render_overview(overview: Overview) -> str:
    """The overview page as HTML. It uses the style sheet of the review page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("overview.html").render(overview=overview)


def _annotator_stats(
    name: str, votes: Sequence[Vote], by_pair: VotesByPair, truths: Mapping[str, Annotation]
) -> AnnotatorStats:
    mine = [vote for vote in votes if vote.annotator == name]
    others = [
        other.verdict for vote in mine for other in by_pair.get(vote.pair_id, {}).values() if other.annotator != name
    ]
    answers = [answer for vote in mine for answer in vote.annotation.answers]
    gold = [
        answer == right
        for vote in mine
        if vote.pair_id in truths
        for answer, right in zip(vote.annotation.answers, truths[vote.pair_id].answers, strict=True)
    ]
    return AnnotatorStats(
        name=name,
        pairs=len(mine),
        accepts=_fraction([vote.verdict == "accept" for vote in mine]) or 0.0,
        others_accept=_fraction([verdict == "accept" for verdict in others]),
        unsure=_fraction([answer == "unsure" for answer in answers]) or 0.0,
        first_yes=_fraction([answer == "yes" for vote in mine for answer in vote.as_shown[0]]) or 0.0,
        second_yes=_fraction([answer == "yes" for vote in mine for answer in vote.as_shown[1]]) or 0.0,
        gold=_fraction(gold),
        gold_pairs=sum(vote.pair_id in truths for vote in mine),
        seconds=statistics.median(vote.seconds for vote in mine),
    )


def _annotator_pair(first: str, second: str, by_pair: VotesByPair) -> AnnotatorPair | None:
    """None if the two have no pair in common."""
    shared = [
        (votes[first].verdict, votes[second].verdict)
        for votes in by_pair.values()
        if first in votes and second in votes
    ]
    agreement = _fraction([one == other for one, other in shared])
    return None if agreement is None else AnnotatorPair((first, second), len(shared), agreement, cohens_kappa(shared))


def _fraction(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
