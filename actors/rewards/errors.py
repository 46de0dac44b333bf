"""What a reward raises if no further call can succeed."""

from __future__ import annotations

from conf.errors import UserError


class RewardError(UserError):
    """A reward breaks its contract, and would break it again: its settings or its code must change."""
