"""The relations of prompts in the words of the rewards by rules: what boxes, or boxes and a depth map, can show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from actors.rewards.depth_order import DEPTH_RELATIONS
from actors.rewards.directions import DIRECTIONS
from actors.types import Prompt, Relation
from conf import UserError
from pipelines.common.relations import MEANINGS, Fact
from pipelines.common.spatial_logic import implied

_BOX_WORDS = {"x": "left of", "y": "above"}
"""Axis of an order of two objects in the image -> one of DIRECTIONS."""
_DEPTH_WORDS = {**_BOX_WORDS, "z": "in front of"}
"""Axis of an order of two objects -> one of DEPTH_RELATIONS."""


def relations_from_boxes(prompts: Iterable[Prompt], name: str = "detector") -> dict[str, tuple[Relation, ...]]:
    """Returns the text of each prompt -> its relations, in the words of the detector's DIRECTIONS.

    `name`: of the reward. Raises UserError, with the prompt, if it has no relations or one that boxes cannot show.
    """
    return _readable(prompts, name, _BOX_WORDS, DIRECTIONS)


def relations_in_depth(prompts: Iterable[Prompt], name: str) -> dict[str, tuple[Relation, ...]]:
    """The same in the words of DEPTH_RELATIONS, which boxes and a depth map can show."""
    return _readable(prompts, name, _DEPTH_WORDS, DEPTH_RELATIONS)


def _readable(
    prompts: Iterable[Prompt], name: str, words: Mapping[str, str], known: Sequence[str]
) -> dict[str, tuple[Relation, ...]]:
    readable: dict[str, tuple[Relation, ...]] = {}
    for prompt in prompts:
        if not prompt.relations:
            raise UserError(
                f"rewards.{name} needs the relations of every prompt, and {prompt.text[:60]!r} has none: add "
                '"relations": [[subject, relation, object], …] to its line'
            )
        readable[prompt.text] = tuple(_as_known(prompt, each, name, words, known) for each in prompt.relations)
    return readable


def _as_known(
    prompt: Prompt, relation: Relation, name: str, words: Mapping[str, str], known: Sequence[str]
) -> Relation:
    """Returns the relation as one of `known`: "B to the right of A" becomes "A left of B"."""
    orders = [fact for fact in _facts(relation) if fact.sense in words]
    if len(orders) == 1:
        return Relation(orders[0].first, words[orders[0].sense], orders[0].second)
    if relation.relation in known:
        return relation
    raise UserError(
        f"rewards.{name} reads {', '.join(known)} from {'boxes' if known == DIRECTIONS else 'boxes and depth'}, not "
        f"{relation.relation!r} of {prompt.text[:60]!r}: remove such prompts, or use rewards.spatialscore instead"
    )


def _facts(relation: Relation) -> frozenset[Fact]:
    """What a relation states; nothing if its words are not known."""
    return implied([relation]) if relation.relation in MEANINGS else frozenset()
