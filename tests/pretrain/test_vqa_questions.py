"""The tiny VLM's schoolbook: its answers are true of the drawn picture, and it is not told what evaluation asks."""

from __future__ import annotations

import re

import numpy as np
import torch

from actors.types import Relation
from pipelines.pretrain.base_samples import sample_base_images
from pipelines.pretrain.vlm import answer_loss
from pipelines.pretrain.vlm_model import build_model, build_tokenizer
from pipelines.pretrain.vqa_batches import VqaBatches
from pipelines.pretrain.vqa_questions import APART, NUMBERS, QuestionAnswer, ask, scatter
from pipelines.scenes import checkpoints_dir
from pipelines.scenes.checker import check, inspect
from pipelines.scenes.grammar import SceneObject, is_held_out, parse
from pipelines.scenes.render import lay_out, render


def _asked(count: int) -> list[tuple[np.ndarray, QuestionAnswer]]:
    """Questions about pictures in which no colour occurs twice, as the checker counts neither of two such objects."""
    rng = np.random.default_rng(0)
    scattered = [scatter(rng) for _ in range(count)]
    distinct = [placed for placed in scattered if len({one.obj.color for one in placed}) == len(placed)]
    pictures = [(placed, render(placed, rng)) for placed in distinct]
    return [(image, one) for placed, image in pictures for one in ask(placed, 8, rng, 0.7)]


def test_the_checker_agrees_with_every_judged_sentence() -> None:
    seen = {"yes": 0, "no": 0}
    for image, one in _asked(80):
        if one.question.startswith("is a "):
            verdict = check(image, parse(one.question.removeprefix("is ")).relations)
            assert verdict.perfect is (one.answer == "yes"), one
            seen[one.answer] += 1
        elif found := re.fullmatch(r"where is the (.*) from the (.*)", one.question):
            if one.answer != APART:
                assert check(image, [Relation(found[1], one.answer, found[2])]).right == 1, one
        elif found := re.fullmatch(r"how many (.*)s", one.question):
            clean = sum(thing.obj.name == found[1] for thing in inspect(image))
            assert clean == NUMBERS.index(one.answer), one
    assert min(seen.values()) > 20


def test_no_sentence_holds_a_held_out_relation() -> None:
    for _, one in _asked(150):
        told = [one.question.removeprefix("is ")] if one.question.startswith("is a ") else []
        assert not any(is_held_out(parse(text).relations) for text in told)
        if found := re.fullmatch(r"where is the (.*) from the (.*)", one.question):
            assert one.answer == APART or not is_held_out([Relation(found[1], one.answer, found[2])])


def test_what_is_missing_is_asked_for_and_denied() -> None:
    rng = np.random.default_rng(1)
    there, missing = parse("a red circle left of a blue square"), SceneObject("green", "triangle")
    asked = [one for _ in range(40) for one in ask(lay_out(there, rng), 6, rng, 0.8, [missing])]
    named = [one for one in asked if "green triangle" in one.question]
    assert {one.question.split()[0] for one in named} == {"is", "how"}
    assert {one.answer for one in named} == {"no", "zero"}


def test_flux_drawings_come_with_what_the_checker_sees_in_them() -> None:
    drawings = sample_base_images(checkpoints_dir("flux"), 96, seed=0)
    assert 80 < len(drawings) <= 96
    for picture in drawings:
        seen = {found.obj for found in inspect(picture.image)}
        assert seen == {placed.obj for placed in picture.placements}
        assert not seen & set(picture.missing)
    assert any(picture.missing for picture in drawings)
    batch, asked = VqaBatches(build_tokenizer(), 0, drawings=drawings, drawn=1.0).draw(8)
    assert len(asked) == 8 == len(batch.input_ids)


def test_a_packed_question_is_answered_as_if_it_were_alone() -> None:
    """Questions of one picture share its tokens and nothing else."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model, chats = build_model(tokenizer).eval(), VqaBatches(tokenizer, 0)
    batch, _ = chats.draw(1)
    block = batch.mask[0, 0]
    last = batch.input_ids.shape[1] - 1
    alone = block[last].nonzero().flatten()  # the picture and the last question
    with torch.inference_mode():
        inputs = {"pixel_values": batch.pixel_values, "image_grid_thw": batch.image_grid_thw}
        packed = model.model(
            input_ids=batch.input_ids, position_ids=batch.position_ids,
            attention_mask={"full_attention": batch.mask}, **inputs,
        ).last_hidden_state[0, last]  # fmt: skip
        single = model.model(
            input_ids=batch.input_ids[:, alone], position_ids=batch.position_ids[:, :, alone], **inputs
        ).last_hidden_state[0, -1]
        assert torch.isfinite(answer_loss(model, batch)[0])
    assert len(alone) < last
    torch.testing.assert_close(packed, single, rtol=1e-4, atol=1e-4)
