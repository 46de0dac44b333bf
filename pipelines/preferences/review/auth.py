"""Who is logged in: a session cookie for the browser, and a token against forged requests."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.preferences.review.database import Database
from pipelines.preferences.review.invitations import Invitation
from pipelines.preferences.review.votes import ReviewStage

COOKIE = "spatialt2i_review"
SESSION_SECONDS = 30 * 86400.0
"""A session ends after this time. The annotator then opens the login link again."""


@dataclass(frozen=True)
class Session:
    """An annotator who is logged in."""

    annotator: str
    stage: ReviewStage
    csrf: str  # token that every request that changes something must carry


@dataclass(frozen=True)
class Auth:
    """Logs annotators in and out. Only digests of cookies and of links are stored."""

    database: Database
    invitations: Mapping[str, Invitation]  # annotator -> invitation

    def log_in(self, token: str) -> tuple[str, Session] | None:
        """Returns the value of the session cookie and the session for the token of a login link, else None."""
        found = [
            name
            for name, invitation in self.invitations.items()
            if hmac.compare_digest(invitation.token.encode(), token.encode())
        ]
        if not found:
            return None
        cookie, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        with self.database.transaction():
            self.database.run("DELETE FROM sessions WHERE created <= ?", time.time() - SESSION_SECONDS)
            self.database.run(
                "INSERT INTO sessions (digest, annotator, link, csrf, created) VALUES (?, ?, ?, ?, ?)",
                _digest(cookie),
                found[0],
                _digest(token),
                csrf,
                time.time(),
            )
        return cookie, self._session(found[0], csrf)

    def session(self, cookie: str | None) -> Session | None:
        """The session of a cookie, unless it is too old or its login link is no longer valid."""
        query = "SELECT annotator, link, csrf FROM sessions WHERE digest = ? AND created > ?"
        known = self.database.all(query, _digest(cookie), time.time() - SESSION_SECONDS) if cookie else []
        if not known:
            return None
        annotator, link, csrf = known[0]
        invitation = self.invitations.get(annotator)
        valid = invitation is not None and hmac.compare_digest(link, _digest(invitation.token))
        return self._session(annotator, csrf) if valid else None

    def log_out(self, cookie: str) -> None:
        """Ends a session."""
        self.database.run("DELETE FROM sessions WHERE digest = ?", _digest(cookie))

    def _session(self, annotator: str, csrf: str) -> Session:
        return Session(annotator, self.invitations[annotator].stage, csrf)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
