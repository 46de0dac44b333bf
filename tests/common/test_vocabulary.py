"""Words that the small models of the scenes world do not know are named; large models get no warning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.common.vocabulary import read_vocabulary, vocabulary_note, vocabulary_warning
from pipelines.scenes import CHECKPOINTS
from pipelines.scenes.grammar import held_out_prompts, training_prompts

FLUX, REWARD = CHECKPOINTS / "flux", CHECKPOINTS / "qwen2_5_vl"


@pytest.mark.parametrize(
    ("model", "text", "unknown"),
    [
        (FLUX, "a photo of a cat on a mat", ["photo", "cat", "on", "mat"]),
        (FLUX, "a red circle left of a blue square", []),
        (FLUX, "a red circle, left of a blue square.", [",", "."]),
        (FLUX, "A red circle above a black square", ["A"]),  # this tokenizer tells capital letters from small ones
        (FLUX, "红色圆圈 above a black square", ["红色圆圈"]),
        (FLUX, "", []),
        (REWARD, "A red circle, left of a blue square.", []),
        (REWARD, "a cat left of a cat", ["cat"]),
    ],
)
def test_unknown_words_are_named(model: Path, text: str, unknown: list[str]) -> None:
    vocabulary = read_vocabulary(model)
    assert vocabulary is not None
    assert vocabulary.unknown([text]) == unknown
    warning = vocabulary_warning([text], model, "the model")
    assert bool(warning) == bool(unknown)
    assert all(repr(word) in warning for word in unknown)


def test_no_prompt_of_the_scenes_world_has_an_unknown_word() -> None:
    prompts = [*training_prompts(300, 0, 0.5), *held_out_prompts(60, False, 0), *held_out_prompts(60, True, 0)]
    for model in (FLUX, REWARD):
        assert vocabulary_warning([prompt.text for prompt in prompts], model, "it") == ""


def test_many_unknown_words_are_counted() -> None:
    warning = vocabulary_warning([" ".join(f"word{i}" for i in range(30))], FLUX, "the model")
    assert "'word11' and 18 more: it is a small model" in warning
    assert warning.startswith("the model does not know")  # `print_warning` adds "warning: "


def test_a_model_that_builds_words_from_parts_knows_all_words(tmp_path: Path) -> None:
    assert vocabulary_warning(["zyx"], tmp_path, "it") == vocabulary_note(tmp_path, "it") == ""  # no tokenizer
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}}}))
    assert vocabulary_warning(["zyx"], tmp_path, "it") == vocabulary_note(tmp_path, "it") == ""
    assert "small model of the scenes world" in vocabulary_note(FLUX, "it")
