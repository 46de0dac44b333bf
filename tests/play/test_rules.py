"""Which prompts the page takes, and what it says of the others."""

from __future__ import annotations

import pytest

from actors.reward_input import InputError
from actors.types import Relation
from conf import SettingsError, load
from pipelines.play.rules import PromptRules

SCENES, FREE = PromptRules(200, True), PromptRules(200, False)


@pytest.mark.parametrize(
    "typed",
    [
        "a red circle left of a blue square",
        "  A Red circle  left of\n a blue square. ",
        "an red circle LEFT OF a blue square ..",
    ],
)
def test_how_a_sentence_is_typed_does_not_matter_in_the_scenes_world(typed: str) -> None:
    prompt = SCENES.read(typed)
    assert prompt.text == "a red circle left of a blue square"
    assert prompt.relations == (Relation("red circle", "left of", "blue square"),)


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("a cat left of a dog", "knows shapes .*It did not understand this prompt: a scene must begin with an object"),
        ("a red circle near a blue square", "expected one of left of, right of.*'near a blue square'"),
        ("a red circle", "no relation"),
        ("a red circle left of a red square", "colour of its own here, and this prompt has two that are red"),
        (" \n ", "must not be blank"),
        ("a red\x00 circle", "control character"),
        ("a" * 201, "can have 200 characters here, this one has 201"),
    ],
)
def test_a_prompt_that_the_scenes_world_lacks_is_refused_with_the_reason(typed: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        SCENES.read(typed)


def test_other_models_take_every_text() -> None:
    prompt = FREE.read(" Two cats. ")
    assert (prompt.text, prompt.relations) == ("Two cats.", ())
    assert not PromptRules.of(load("flux_dev")).scenes and PromptRules.of(load("scenes")).scenes


def test_other_machines_need_a_token() -> None:
    with pytest.raises(SettingsError, match=r"play\.host=0\.0\.0\.0 answers other machines.*play\.token_variable"):
        load("scenes", ["play.host=0.0.0.0"])
    assert load("scenes", ["play.host=0.0.0.0", "play.token_variable=T"]).play.host == "0.0.0.0"
