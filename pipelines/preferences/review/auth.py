"""Who may come in: a login link a reviewer, a session cookie for the browser, and a token against forged requests."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.preferences.review.database import Database
from pipelines.preferences.review.store import ADJUDICATION, REVIEW

COOKIE = "spatialt2i_review"


@dataclass(frozen=True)
class Session:
    """A reviewer who is logged in."""

    annotator: str
    stage: str  # what they do: REVIEW | ADJUDICATION
    csrf: str  # must come with every request that changes something


@dataclass(frozen=True)
class Auth:
    """Logs reviewers in and out. Only digests of session cookies are stored; tokens are in the invitations alone."""

    database: Database
    tokens: dict[str, str]  # reviewer -> token
    adjudicators: frozenset[str]

    def log_in(self, token: str) -> tuple[str, Session] | None:
        """(value of the session cookie, session) for a right token, else None."""
        found = [name for name, known in self.tokens.items() if hmac.compare_digest(known.encode(), token.encode())]
        if not found:
            return None
        cookie, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.database.run("INSERT INTO sessions VALUES (?, ?, ?)", _digest(cookie), found[0], csrf)
        return cookie, self._session(found[0], csrf)

    def session(self, cookie: str | None) -> Session | None:
        """The session of a cookie, if there is one and its reviewer is still invited."""
        query = "SELECT reviewer, csrf FROM sessions WHERE digest = ?"
        known = self.database.all(query, _digest(cookie)) if cookie else []
        return self._session(*known[0]) if known and known[0]["reviewer"] in self.tokens else None

    def log_out(self, cookie: str) -> None:
        """Ends a session."""
        self.database.run("DELETE FROM sessions WHERE digest = ?", _digest(cookie))

    def _session(self, reviewer: str, csrf: str) -> Session:
        return Session(reviewer, ADJUDICATION if reviewer in self.adjudicators else REVIEW, csrf)


def invite(path: Path, names: Sequence[str], address: str) -> dict[str, str]:
    """The reviewers' tokens, kept as login links in a file that only its owner can read: a line of name and link each.

    Who is new gets one, who is gone loses theirs. To give somebody another, delete their line and start again.
    """
    known = dict(re.findall(r"^(\S+) \S+#(\S+)$", path.read_text(), re.MULTILINE)) if path.exists() else {}
    tokens = {name: known.get(name) or secrets.token_urlsafe(24) for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name} {address}/#{token}\n" for name, token in tokens.items())
    partial.replace(path)
    return tokens


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
