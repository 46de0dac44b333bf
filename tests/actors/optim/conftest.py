"""Fixtures of the tiny FLUX."""

from __future__ import annotations

from tests.support.tiny_flux import flux_directory

__all__ = ["flux_directory"]
