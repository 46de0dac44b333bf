"""The votes of the annotators as a table for spreadsheets: one line for each answer about a claim."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from pipelines.preferences.review.pairs import ReviewPair
from pipelines.preferences.review.votes import Vote

COLUMNS = (
    "pair_id",
    "annotator",
    "stage",  # review, adjudication, or gold: it measures the annotator only
    "image",  # winner or loser
    "claim",
    "kind",  # of the claim: see ClaimKind
    "answer",
    "bad_prompt",
    "note",
    "seconds",  # that the pair was on the screen
    "time",  # when the vote was cast
)


def vote_table(votes: Iterable[Vote], pairs: Mapping[str, ReviewPair]) -> bytes:
    """The table as CSV, UTF-8. Votes on pairs that are not in `pairs` are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for vote in votes:
        if vote.pair_id in pairs:
            writer.writerows([_safe(cell) for cell in line] for line in _lines(vote, pairs[vote.pair_id]))
    return text.getvalue().encode()


def _lines(vote: Vote, pair: ReviewPair) -> Iterator[tuple[str, ...]]:
    time = datetime.fromtimestamp(vote.cast_at, UTC).isoformat(timespec="seconds")
    note = vote.annotation.note
    for image, answers in (("winner", vote.annotation.winner), ("loser", vote.annotation.loser)):
        for number, (claim, answer) in enumerate(zip(pair.claims, answers, strict=False)):
            if answer:
                kind = pair.rule.claim_kind(number, image == "loser")
                bad_prompt = "yes" if vote.annotation.bad_prompt else ""
                yield (
                    vote.pair_id, vote.annotator, vote.stage, image, " ".join(claim), kind, answer, bad_prompt, note,
                    f"{vote.seconds:.1f}", time,
                )  # fmt: skip


def _safe(cell: str) -> str:
    """The text as a spreadsheet shows it: no annotator's note is run as a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
