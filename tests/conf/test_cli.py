"""The command line: every verb is understood, and a mistake is answered in words."""

from __future__ import annotations

import importlib

import pytest

from conf import SettingsError
from pipelines.cli import VERBS, Action, main, understand, usage


def test_every_verb_and_action_is_in_the_help() -> None:
    assert all(verb in usage() for verb in VERBS)
    assert all(action.help in usage() for actions in VERBS.values() for action in actions.values())


@pytest.mark.parametrize("action", [action for actions in VERBS.values() for action in actions.values()])
def test_every_action_names_a_function(action: Action) -> None:
    module, function = action.command.split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_first_action_and_the_scenes_preset_are_the_defaults() -> None:
    action, settings = understand(["policy"])
    assert action is VERBS["policy"]["train"]
    assert settings.preset == "scenes"


def test_an_action_a_preset_and_overrides_are_told_apart() -> None:
    action, settings = understand(["policy", "export", "flux_dev", "policy.lr=0.001"])
    assert action is VERBS["policy"]["export"]
    assert (settings.preset, settings.policy.lr) == ("flux_dev", 0.001)


def test_words_in_quotes_are_the_text_to_draw() -> None:
    action, settings = understand(["policy", "sample", 'a cup: "red", left of a plate', "sample.images=2"])
    assert action is VERBS["policy"]["sample"]
    assert (settings.sample.text, settings.sample.images) == ('a cup: "red", left of a plate', 2)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["polcy"], "did you mean policy?"),
        (["policy", "exprt"], "did you mean export?"),
        (["reward", "train", "flux_dv"], "did you mean flux_dev?"),
    ],
)
def test_a_mistake_is_answered_with_a_suggestion(words: list[str], expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        understand(words)
    assert expected in str(refused.value)


def test_a_bad_setting_ends_with_code_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "policy.top_k=13"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
