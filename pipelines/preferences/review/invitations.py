"""Who is invited to a review, and the file of their login links.

The names and what each person does are in the review's database. The links are only in the file, one `<name> <link>` a
line, which only its owner can read.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conf import UserError
from conf.review import DEFAULT_ADJUDICATORS, DEFAULT_ANNOTATORS, NAME, ReviewSettings
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.votes import ReviewStage

_TOKEN_BYTES = 24
_LINE = re.compile(rf"({NAME.pattern})[ \t]+\S+/#([A-Za-z0-9_-]{{32,}})")


@dataclass(frozen=True)
class Invitation:
    """What a person may do, and the secret part of their login link."""

    stage: ReviewStage
    token: str


@dataclass(frozen=True)
class Guests:
    """Everyone who is invited."""

    invitations: Mapping[str, Invitation]  # name -> invitation
    removed: tuple[str, ...]  # names that were invited before and no longer are

    def names(self, stage: ReviewStage) -> str:
        """The names of those who do the same, for a message."""
        return ", ".join(name for name, one in self.invitations.items() if one.stage == stage) or "nobody"


def invite(database: Database, path: Path, cfg: ReviewSettings) -> Guests:
    """Decides who is invited and records it. Does not write the file: see `write_links`.

    Names in the settings replace those invited before, separately for annotators and adjudicators. Without names in the
    settings, everyone keeps their access. A person whose line is missing in the file gets a new link. Raises UserError
    if the file is damaged, if it does not tell who adjudicates, or if there are fewer annotators than
    `annotators_per_pair`.
    """
    tokens = read_links(path)
    before: dict[str, ReviewStage] = {
        row["name"]: row["stage"] for row in database.all("SELECT name, stage FROM annotators ORDER BY rowid")
    }
    stages = _stages(cfg, before)
    unknown = sorted(tokens.keys() - before.keys() - stages.keys()) if not before else []
    if unknown and not cfg.annotators:
        raise UserError(
            f"{path} invites {', '.join(unknown)}, but the review does not know what they do: name them once with "
            "review.annotators=[…] review.adjudicators=[…]"
        )
    with database.transaction():
        database.run("DELETE FROM annotators")
        for name, stage in stages.items():
            database.run("INSERT INTO annotators VALUES (?, ?)", name, stage)
    invitations = {
        name: Invitation(stage, tokens.get(name) or secrets.token_urlsafe(_TOKEN_BYTES))
        for name, stage in stages.items()
    }
    return Guests(invitations, tuple(sorted((before.keys() | tokens.keys()) - stages.keys())))


def read_links(path: Path) -> dict[str, str]:
    """The tokens of the login links in a file, name -> token; none if there is no file.

    Raises UserError, which does not quote the links, if a line is not a link, or two lines have the same name or link.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n") if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} must be a text file of login links: {error}: delete it to make new links") from error
    tokens: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise UserError(
                f"line {number} of {path} must be a name and a login link: delete the line to make a new link"
            )
        name, token = match.groups()
        if name in tokens or token in tokens.values():
            raise UserError(
                f"line {number} of {path} repeats the name or the link of another line, got {name}: delete the line to "
                "make a new link"
            )
        tokens[name] = token
    return tokens


def write_links(path: Path, invitations: Mapping[str, Invitation], address: str) -> None:
    """Writes the login links. Raises UserError if the file cannot be written."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        # Not `write_file`: the file must never exist with permissions for others.
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(f"{name} {address}/#{one.token}\n" for name, one in invitations.items())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(
            f"the login links must be written to {path}, got: {error}: free or unlock its folder"
        ) from error


def _stages(cfg: ReviewSettings, before: Mapping[str, ReviewStage]) -> dict[str, ReviewStage]:
    """Name -> what the person does. Raises UserError if there are too few annotators."""

    def kept(stage: ReviewStage, others: Iterable[str], default: tuple[str, ...]) -> tuple[str, ...]:
        names = [name for name, old in before.items() if old == stage] if before else default
        return tuple(name for name in names if name not in others and name not in cfg.void_votes)

    annotators = cfg.annotators or kept("review", cfg.adjudicators, DEFAULT_ANNOTATORS)
    adjudicators = cfg.adjudicators or kept("adjudication", annotators, DEFAULT_ADJUDICATORS)
    if len(annotators) < cfg.annotators_per_pair:
        raise UserError(
            f"review.annotators_per_pair must be at most the number of annotators, got {cfg.annotators_per_pair} with "
            f"{len(annotators)} ({', '.join(annotators)}): add names to review.annotators"
        )
    return {**dict.fromkeys(annotators, "review"), **dict.fromkeys(adjudicators, "adjudication")}
