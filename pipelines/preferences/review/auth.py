"""Who may log in: a login link per annotator, a session cookie for the browser, a token against forged requests."""

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
from pipelines.preferences.review.votes import ReviewStage

COOKIE = "spatialt2i_review"


@dataclass(frozen=True)
class Session:
    """An annotator who is logged in."""

    annotator: str
    stage: ReviewStage
    csrf: str  # token that every request that changes something must carry


@dataclass(frozen=True)
class Auth:
    """Logs annotators in and out. Only digests of session cookies are stored. Tokens are only in the invitations."""

    database: Database
    tokens: dict[str, str]  # annotator -> token
    adjudicators: frozenset[str]

    def log_in(self, token: str) -> tuple[str, Session] | None:
        """Returns the value of the session cookie and the session for a valid token, else None."""
        found = [name for name, known in self.tokens.items() if hmac.compare_digest(known.encode(), token.encode())]
        if not found:
            return None
        cookie, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.database.run("INSERT INTO sessions VALUES (?, ?, ?)", _cookie_digest(cookie), found[0], csrf)
        return cookie, self._session(found[0], csrf)

    def session(self, cookie: str | None) -> Session | None:
        """The session of a cookie, if there is one and its annotator is still invited."""
        query = "SELECT annotator, csrf FROM sessions WHERE digest = ?"
        known = self.database.all(query, _cookie_digest(cookie)) if cookie else []
        return self._session(*known[0]) if known and known[0]["annotator"] in self.tokens else None

    def log_out(self, cookie: str) -> None:
        """Ends a session."""
        self.database.run("DELETE FROM sessions WHERE digest = ?", _cookie_digest(cookie))

    def _session(self, annotator: str, csrf: str) -> Session:
        return Session(annotator, "adjudication" if annotator in self.adjudicators else "review", csrf)


def invite(path: Path, names: Sequence[str], address: str) -> dict[str, str]:
    """Writes the login links to a file that only its owner can read, one `<name> <link>` a line. Returns the tokens.

    A new name gets a token; a name that is no longer given loses its token. To replace a token, delete its line and
    start again.
    """
    known = dict(re.findall(r"^(\S+) \S+#(\S+)$", path.read_text(), re.MULTILINE)) if path.exists() else {}
    tokens = {name: known.get(name) or secrets.token_urlsafe(24) for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    # Not `write_file`: the file must never exist with permissions for others.
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name} {address}/#{token}\n" for name, token in tokens.items())
    partial.replace(path)
    return tokens


def _cookie_digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
