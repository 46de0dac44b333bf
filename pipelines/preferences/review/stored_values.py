"""How the review's database stores rules, claims and votes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from typing import Any

from pipelines.preferences.claims import Answer, ClaimRule
from pipelines.preferences.review.annotation import Annotation, Asked
from pipelines.preferences.review.votes import Vote


def dump_rule(rule: ClaimRule) -> str:
    """A rule as JSON."""
    return json.dumps(asdict(rule))


def load_rule(text: str) -> ClaimRule:
    """The rule that `dump_rule` wrote."""
    values: dict[str, Any] = json.loads(text)
    values["changed"] = tuple(values["changed"])
    return ClaimRule(**values)


def dump_asked(asked: Asked) -> str:
    """The claims that are asked, as JSON."""
    return json.dumps([asked.winner, asked.loser])


def load_asked(text: str) -> Asked:
    """The claims that `dump_asked` wrote."""
    winner, loser = json.loads(text)
    return Asked(tuple(winner), tuple(loser))


def load_vote(row: sqlite3.Row) -> Vote:
    """A row of the table `votes`."""
    annotation = Annotation(
        _answers(row["winner"]), _answers(row["loser"]), bad_prompt=bool(row["bad_prompt"]), note=row["note"]
    )
    return Vote(
        vote_id=row["vote_id"],
        pair_id=row["pair_id"],
        annotator=row["annotator"],
        stage=row["stage"],
        annotation=annotation,
        verdict=row["verdict"],
        first_side=row["first_side"],
        seconds=row["seconds"],
        cast_at=row["cast_at"],
    )


def translated(answers: str, rule: ClaimRule) -> str:
    """The answers of a vote of version 2, whose first answer was about all objects together. Others stay as they are.

    "yes" holds for every object. "no" does not tell which object was meant, so that an adjudicator has to decide.
    """
    values = json.loads(answers)
    if len(values) == rule.claims or len(values) != 1 + rule.relations:
        return answers
    return json.dumps(["yes" if values[0] == "yes" else "unsure"] * rule.objects + values[1:])


def _answers(text: str) -> tuple[Answer, ...]:
    return tuple(json.loads(text))
