"""Prompts that the base would cut off, and noise that it cannot remove, are refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conf import SettingsError, load
from pipelines.policy.base_model_check import check_base_model, check_text_lengths

SHORT, LONG = "a red circle left of a blue square", "a red circle left of a blue square " * 4


@pytest.mark.parametrize("source", ["policy.prompts", "policy.held_out_prompts"])
def test_prompts_that_would_be_cut_are_refused(tmp_path: Path, source: str) -> None:
    """The embedded tokenizer has a token for each word, and one for the end of a text."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in (SHORT, LONG, SHORT)))
    overrides = [f"{source}={path}"]
    with pytest.raises(
        SettingsError,
        match=rf"{source}.*max_sequence_length=24 .* got 1 of 3 texts.* has 33 tokens, .a red.*max_sequence_length=64",
    ):
        check_base_model(load("scenes", overrides))
    check_base_model(load("scenes", [*overrides, "flux.max_sequence_length=33"]))
    with pytest.raises(SettingsError, match="has 33"):
        check_base_model(load("scenes", [*overrides, "flux.max_sequence_length=32"]))


def test_a_text_that_no_setting_can_hold_must_be_shortened() -> None:
    with pytest.raises(SettingsError, match=r"sample\.text.* has 1025 tokens, .*…: shorten them"):
        check_text_lengths(load("scenes"), "sample.text", ["circle " * 1024])


def test_noise_is_checked_for_every_iteration() -> None:
    """The sliding window reaches the step before the last one in the ninth iteration."""
    noise = "policy.sampling.noise_level=1.8"
    check_base_model(load("scenes", [noise, "policy.iterations=4"]))
    with pytest.raises(SettingsError, match=r"at denoise step 4 .*policy\.sampling\.clean_steps=2"):
        check_base_model(load("scenes", [noise, "policy.iterations=12"]))


def test_a_model_that_cannot_be_read_here_is_not_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_base_model(load("scenes", [f"flux.model={tmp_path}/elsewhere"]))
    assert "elsewhere cannot be read here, so prompts and noise are not checked" in capsys.readouterr().err
