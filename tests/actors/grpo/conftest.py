from __future__ import annotations

from tests.actors.policy.conftest import flux_directory, policy

__all__ = ["flux_directory", "policy"]
