"""The values of the string columns of a preference row. Imports nothing, so that the review page starts quickly."""

from __future__ import annotations

from typing import Literal

PairKind = Literal["perturbed", "corrupted", "generated"]
"""How the losing image differs.

perturbed: it shows a prompt with changed relations. corrupted: it lacks, doubles or recolours an object.
generated: the base policy made both images of one prompt, and the checker decided which is better.
"""

ReviewStatus = Literal["pending", "accepted", "rejected", "disputed"]

Tier = Literal["strict", "ordered"]
"""How sharply an accepted pair differs.

strict: all claims hold for the winner; the loser violates what was changed and keeps the rest. ordered: all claims hold
for the winner, and the loser violates at least one changed claim. Pairs of kind generated are ordered.
"""

PreferenceVote = Literal["w", "l", "tie", "unsure"]
"""The image that a reviewer prefers: the winner, the loser, neither, or unknown."""

Side = Literal["w", "l"]
"""An image of a pair: the winner or the loser."""
