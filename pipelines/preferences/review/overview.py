"""The state of a review: progress, agreement beyond chance, and the bias and pace of each annotator."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines.preferences.claims import CLAIM_KINDS, Answer, ClaimKind, ClaimRule
from pipelines.preferences.review.agreement import cohens_kappa, krippendorffs_alpha
from pipelines.preferences.review.annotation import Annotation
from pipelines.preferences.review.gold import right_share
from pipelines.preferences.review.triage_scores import TriageOutcome
from pipelines.preferences.review.votes import Decision, Vote
from pipelines.preferences.row_values import ReviewStatus, Tier

VotesByPair = Mapping[str, Mapping[str, Vote]]
"""Pair id -> annotator -> vote."""

MAX_NOTES = 50
"""The overview shows this many of the newest notes."""


@dataclass(frozen=True)
class AnnotatorStats:
    """The statistics of one annotator. A fraction is None if there is nothing to count."""

    name: str
    pairs: int
    accepts: float | None  # fraction of the annotator's verdicts, of votes that answer every claim
    others_accept: float | None  # fraction of the others' verdicts on the same pairs; the difference is a bias
    unsure: float  # fraction of the annotator's answers
    first_yes: float  # fraction of "yes" about the image that was shown first
    second_yes: float  # the same about the second; random sides make both equal for an unbiased annotator
    gold: float | None  # fraction of the answers about gold pairs that are correct
    gold_pairs: int
    seconds: float  # median of a pair


@dataclass(frozen=True)
class AnnotatorPair:
    """How far two annotators give the same answers about the same claims."""

    names: tuple[str, str]
    claims: int  # that both answered
    agreement: float  # fraction of the claims
    kappa: Mapping[ClaimKind, float | None]


@dataclass(frozen=True)
class Note:
    """What an annotator wrote about a pair."""

    pair_id: str
    annotator: str
    text: str
    bad_prompt: bool


@dataclass(frozen=True)
class Overview:
    """The content of the overview page. Agreement is measured before adjudication."""

    statuses: Mapping[ReviewStatus, int]  # status -> pairs
    tiers: Mapping[Tier, int]  # tier -> accepted pairs
    votes: int
    answers: int  # in all votes
    alpha: Mapping[ClaimKind, float | None]  # Krippendorff's alpha of the answers about claims of each kind
    annotators: tuple[AnnotatorStats, ...]
    annotator_pairs: tuple[AnnotatorPair, ...]
    notes: tuple[Note, ...] = ()  # newest first
    triage: TriageOutcome | None = None  # None if there was no triage, or if the reader must not know

    @property
    def pairs(self) -> int:
        """Number of pairs of the dataset."""
        return sum(self.statuses.values())


def summarise(
    votes: Sequence[Vote],
    decisions: Mapping[str, Decision],
    rules: Mapping[str, ClaimRule],
    truths: Mapping[str, Annotation],
) -> Overview:
    """The overview of a review.

    `decisions` are those of the dataset's pairs, `rules` those of all pairs that have votes; votes on other pairs do
    not count. `truths` are the known answers about gold pairs.
    """
    votes = [vote for vote in votes if vote.pair_id in rules]
    by_pair: dict[str, dict[str, Vote]] = defaultdict(dict)
    for vote in votes:
        if vote.stage != "adjudication":
            by_pair[vote.pair_id][vote.annotator] = vote
    units: dict[ClaimKind, list[list[Answer]]] = {kind: [] for kind in CLAIM_KINDS}
    for pair_id, pair_votes in by_pair.items():
        for kind, labels in _labels(rules[pair_id], list(pair_votes.values())):
            units[kind].append([label for label in labels if label])
    tiers: Counter[Tier] = Counter(one.tier for one in decisions.values() if one.tier)
    names = sorted({vote.annotator for vote in votes})
    reviewers = sorted({vote.annotator for vote in votes if vote.stage != "adjudication"})
    annotator_pairs = (_annotator_pair(first, second, by_pair, rules) for first, second in combinations(reviewers, 2))
    notes = [
        Note(vote.pair_id, vote.annotator, vote.annotation.note, vote.annotation.bad_prompt)
        for vote in reversed(votes)
        if vote.annotation.note or vote.annotation.bad_prompt
    ]
    return Overview(
        statuses=Counter(one.status for one in decisions.values()),
        tiers=tiers,
        votes=len(votes),
        answers=sum(bool(answer) for vote in votes for answer in vote.annotation.answers),
        alpha={kind: krippendorffs_alpha(labels) for kind, labels in units.items()},
        annotators=tuple(_annotator_stats(name, votes, by_pair, truths) for name in names),
        annotator_pairs=tuple(pair for pair in annotator_pairs if pair),
        notes=tuple(notes[:MAX_NOTES]),
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
    return environment.get_template("overview.html").render(overview=overview, kinds=CLAIM_KINDS)


def _labels(rule: ClaimRule, votes: Sequence[Vote]) -> Iterator[tuple[ClaimKind, tuple[Answer, ...]]]:
    """Each claim about each image of one pair: its kind, and one answer of each vote, "" for none."""
    for about_loser in (False, True):
        sides = [vote.annotation.loser if about_loser else vote.annotation.winner for vote in votes]
        for claim, labels in enumerate(zip(*sides, strict=True)):
            yield rule.claim_kind(claim, about_loser), labels


def _annotator_stats(
    name: str, votes: Sequence[Vote], by_pair: VotesByPair, truths: Mapping[str, Annotation]
) -> AnnotatorStats:
    mine = [vote for vote in votes if vote.annotator == name]
    complete = [vote for vote in mine if vote.annotation.complete]
    others = [
        other.verdict
        for vote in complete
        for other in by_pair.get(vote.pair_id, {}).values()
        if other.annotator != name and other.annotation.complete
    ]
    answers = [answer for vote in mine for answer in vote.annotation.answers if answer]
    first, second = ([answer for vote in mine for answer in vote.as_shown[i] if answer] for i in (0, 1))
    return AnnotatorStats(
        name=name,
        pairs=len(mine),
        accepts=_fraction([vote.verdict == "accept" for vote in complete]),
        others_accept=_fraction([verdict == "accept" for verdict in others]),
        unsure=_fraction([answer == "unsure" for answer in answers]) or 0.0,
        first_yes=_fraction([answer == "yes" for answer in first]) or 0.0,
        second_yes=_fraction([answer == "yes" for answer in second]) or 0.0,
        gold=right_share(mine, truths),
        gold_pairs=sum(vote.pair_id in truths for vote in mine),
        seconds=statistics.median(vote.seconds for vote in mine),
    )


def _annotator_pair(
    first: str, second: str, by_pair: VotesByPair, rules: Mapping[str, ClaimRule]
) -> AnnotatorPair | None:
    """None if the two have no claim in common."""
    shared: dict[ClaimKind, list[tuple[Answer, Answer]]] = {kind: [] for kind in CLAIM_KINDS}
    for pair_id, votes in by_pair.items():
        if first in votes and second in votes:
            for kind, labels in _labels(rules[pair_id], [votes[first], votes[second]]):
                if all(labels):
                    shared[kind].append((labels[0], labels[1]))
    agreement = _fraction([one == other for labels in shared.values() for one, other in labels])
    if agreement is None:
        return None
    kappa: dict[ClaimKind, float | None] = {kind: cohens_kappa(labels) for kind, labels in shared.items()}
    return AnnotatorPair((first, second), sum(map(len, shared.values())), agreement, kappa)


def _fraction(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
