"""Folders of pairs as stage 2 reads them."""

from __future__ import annotations

from pathlib import Path

from pipelines.reward.locations import PairSource

ACCEPTED = {"status": "accepted", "tier": "strict", "votes": ["w"], "agreement": 1.0, "gold": True}
"""The review of a verified row."""
PENDING = {**ACCEPTED, "status": "pending", "tier": None, "votes": [], "gold": False}


def source_of(
    *folders: Path | str, tiers: tuple[str, ...] = ("strict", "ordered"), unreviewed: bool = False
) -> PairSource:
    """The pairs of some folders."""
    return PairSource(tuple(map(str, folders)), tiers, unreviewed)
