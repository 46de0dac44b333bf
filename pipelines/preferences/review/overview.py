"""How a review stands: progress, agreement beyond chance, and each reviewer's leanings and pace."""

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
from pipelines.preferences.review.store import REVIEW, Vote
from pipelines.preferences.review.triage_scores import TriageCheck


@dataclass(frozen=True)
class AnnotatorStats:
    """One reviewer's row. Shares are None where there is nothing to count."""

    name: str
    pairs: int
    accepts: float  # share of the reviewer's verdicts
    others_accept: float | None  # share of the others' verdicts on the same pairs: the difference is a bias
    unsure: float  # share of the reviewer's answers
    first_yes: float  # share of "yes" about the picture shown first …
    second_yes: float  # … and about the second: by shuffling, these should be alike
    gold: float | None  # share of answers about gold pairs that are right
    gold_pairs: int
    seconds: float  # median, of a pair


@dataclass(frozen=True)
class AnnotatorPair:
    """Two reviewers and how far their verdicts on the same pairs agree."""

    names: tuple[str, str]
    pairs: int
    agree: float
    kappa: float | None


@dataclass(frozen=True)
class Overview:
    """Everything on the overview page. Agreement is that of reviewers, before any adjudication."""

    statuses: Mapping[str, int]  # pending | accepted | rejected | disputed -> pairs
    votes: int
    alpha_verdicts: float | None  # Krippendorff's, on verdicts
    alpha_answers: float | None  # Krippendorff's, on single answers
    annotators: tuple[AnnotatorStats, ...]
    annotator_pairs: tuple[AnnotatorPair, ...]
    triage: TriageCheck | None = None  # None where no model was asked, or for who may not know

    @property
    def pairs(self) -> int:
        """Pairs of the set."""
        return sum(self.statuses.values())


def summarise(votes: Sequence[Vote], statuses: Mapping[str, str], gold: Mapping[str, ReviewPair]) -> Overview:
    """`statuses`: of the set's pairs; `gold`: the pairs whose truth is known."""
    first_round = [vote for vote in votes if vote.stage == REVIEW]
    by_pair: dict[str, dict[str, Vote]] = defaultdict(dict)
    for vote in first_round:
        by_pair[vote.pair_id][vote.reviewer] = vote
    units = [list(given.values()) for given in by_pair.values()]
    answers = [
        list(given) for unit in units for given in zip(*(_answers(vote.annotation) for vote in unit), strict=True)
    ]
    names = sorted({vote.reviewer for vote in votes})
    truths = {name: known for name, pair in gold.items() if (known := truth(pair))}
    couples = (_couple(names, by_pair) for names in combinations(sorted({vote.reviewer for vote in first_round}), 2))
    return Overview(
        statuses=Counter(statuses.values()),
        votes=len(votes),
        alpha_verdicts=krippendorffs_alpha([[vote.verdict for vote in unit] for unit in units]),
        alpha_answers=krippendorffs_alpha(answers),
        annotators=tuple(_person(name, votes, by_pair, truths) for name in names),
        annotator_pairs=tuple(couple for couple in couples if couple),
    )


def render_overview(overview: Overview) -> str:
    """The page. Its style sheet is the review's."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("overview.html").render(overview=overview)


def _person(
    name: str, votes: Sequence[Vote], by_pair: Mapping[str, Mapping[str, Vote]], truths: Mapping[str, Annotation]
) -> AnnotatorStats:
    own = [vote for vote in votes if vote.reviewer == name]
    others = [
        other.verdict for vote in own for other in by_pair.get(vote.pair_id, {}).values() if other.reviewer != name
    ]
    given = [answer for vote in own for answer in _answers(vote.annotation)]
    shown = [
        (v.annotation.winner, v.annotation.loser) if v.first_side == "w" else (v.annotation.loser, v.annotation.winner)
        for v in own
    ]
    checked = [
        answer == right
        for vote in own
        if vote.pair_id in truths
        for answer, right in zip(_answers(vote.annotation), _answers(truths[vote.pair_id]), strict=True)
    ]
    return AnnotatorStats(
        name=name,
        pairs=len(own),
        accepts=_share([vote.verdict == "accept" for vote in own]) or 0.0,
        others_accept=_share([verdict == "accept" for verdict in others]),
        unsure=_share([answer == "unsure" for answer in given]) or 0.0,
        first_yes=_share([answer == "yes" for first, _ in shown for answer in first]) or 0.0,
        second_yes=_share([answer == "yes" for _, second in shown for answer in second]) or 0.0,
        gold=_share(checked),
        gold_pairs=sum(vote.pair_id in truths for vote in own),
        seconds=statistics.median(vote.seconds for vote in own),
    )


def _couple(names: tuple[str, str], by_pair: Mapping[str, Mapping[str, Vote]]) -> AnnotatorPair | None:
    """None for two who have no pair in common."""
    first, second = names
    shared = [
        (given[first].verdict, given[second].verdict)
        for given in by_pair.values()
        if first in given and second in given
    ]
    agree = _share([one == other for one, other in shared])
    return None if agree is None else AnnotatorPair(names, len(shared), agree, cohens_kappa(shared))


def _answers(ballot: Annotation) -> tuple[str, ...]:
    return ballot.winner + ballot.loser


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
