"""The questions of the chat roles, and the schemas of their answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.common.relations import WORDINGS

WRITE = """\
You write prompts for text-to-image models that test their understanding of space.
Write one prompt of about 60 words ({fewest} to {most}) about this scene: {scene}.
It states exactly {relations} spatial relations between distinct, concrete objects.
It says that the scene is described {viewpoint}: left, right, front and behind are the viewer's. Return those words as \
`frame`, exactly as the prompt has them.
Return the relations as data, in the order of the prompt:
- subject and object are the objects' names as the prompt has them, without article. Each object keeps one name, which \
tells it apart from all others. For "between", object is "X and Y".
- relation is one of the allowed wordings, used in the prompt in exactly these words.
- phrase is the part of the prompt that states this relation and no other one, word for word. It reads "subject ... \
relation ... object", or begins with the relation: "In front of the sofa stands a table". It has both names and no \
pronoun, no "which" and no "that".
Say nothing in the negative, and state no place but the listed relations. No two relations may contradict each other, \
follow from each other or be about the same two objects; what is on or in an object is where that object is. At most a \
third of the relations are among these: {fixed}.
Variation {variation}."""

PERTURB = """\
This prompt describes an image, as a photograph shows it:

{prompt}

Its spatial relations:
{relations}

Change exactly {count} of the relations {changeable} so that the new prompt contradicts the old one. For each of \
them, do one of these:
- use the opposite on the same axis: left and right, above and below, in front and behind, near and far, next to and \
inside, on and under. Do not change the axis: an object can be left of another one and behind it.
- move a part along one direction: "at the left edge of" becomes "at the right edge of", "in the upper-left corner of" \
becomes "in the upper-right corner of".
- exchange its objects; for "between", the object in the middle with one of the others.
Do not restate the same fact in other words. The relations together must still be possible. Every other word of the \
prompt, all objects and all other relations stay exactly as they are.
Return the whole new prompt, and for each changed relation its number and what it says now."""


def _check_wording(wording: str) -> str:
    if wording not in WORDINGS:
        raise ValueError(f"relation must be one of the allowed wordings, got {wording!r}")
    return wording


Wording = Annotated[str, AfterValidator(_check_wording), Field(json_schema_extra={"enum": list(WORDINGS)})]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StatedRelation(_Strict):
    """One relation in a writer's answer."""

    subject: str
    relation: Wording
    object: str
    phrase: str


class WrittenPrompt(_Strict):
    """A writer's answer."""

    prompt: str
    frame: str
    relations: list[StatedRelation]


class ChangedRelation(_Strict):
    """One changed relation in a perturber's answer."""

    number: int
    subject: str
    relation: Wording
    object: str


class PerturbedPrompt(_Strict):
    """A perturber's answer."""

    prompt: str
    changes: list[ChangedRelation]
