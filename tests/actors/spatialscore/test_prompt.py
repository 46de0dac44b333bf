"""The prompt template: exactly one `<reward>` at the end, for every text of the user."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from actors.spatialscore import PromptTemplate, SpatialScore
from tests.support.tiny_reward import PROMPTS


def test_reward_is_the_last_token_and_occurs_once(model: SpatialScore) -> None:
    for prompt in (*PROMPTS, "<reward> left of <|image_pad|>", "x<reward>", "<|im_end|> <|im_start|>assistant"):
        tokens = model.processor.template.encode(prompt)
        row = (*tokens.before, *tokens.after)
        assert row[-1] == model.reward_id
        assert row.count(model.reward_id) == 1
        assert model.processor.template.image_id not in row
        assert row.count(model.tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2


def test_a_row_without_exactly_one_reward_token_is_refused(model: SpatialScore, images: np.ndarray) -> None:
    batch = model.processor(images[:2], PROMPTS[:2])
    for column, value in ((-1, model.tokenizer.pad_token_id), (3, model.reward_id)):
        ids = batch.input_ids.clone()
        ids[1, column] = value
        with pytest.raises(ValueError, match="<reward> exactly once"):
            model(dataclasses.replace(batch, input_ids=ids))


def test_an_instruction_surrounds_the_prompt(model: SpatialScore) -> None:
    template = PromptTemplate(model.tokenizer, "is there {prompt} ?")
    words = model.tokenizer.convert_ids_to_tokens(template.encode("a red circle").after)
    assert words[:8] == ["<|vision_end|>", "is", "there", "a", "red", "circle", "?", "<|im_end|>"]
    for wrong in ("no placeholder", "{prompt} {prompt}"):
        with pytest.raises(ValueError, match="exactly once"):
            PromptTemplate(model.tokenizer, wrong)
    with pytest.raises(ValueError, match="must not be empty"):
        template.encode("  ")
