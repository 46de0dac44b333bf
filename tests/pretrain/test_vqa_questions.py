"""The questions of the tiny VLM: their answers are true, and they state no held-out relation."""

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


def questions(count: int) -> list[tuple[np.ndarray, QuestionAnswer]]:
    """Questions about images without two objects of one colour, because the checker counts neither of them."""
    rng = np.random.default_rng(0)
    scattered = [scatter(rng) for _ in range(count)]
    distinct = [placed for placed in scattered if len({one.obj.color for one in placed}) == len(placed)]
    images = [(placed, render(placed, rng)) for placed in distinct]
    return [(image, pair) for placed, image in images for pair in ask(placed, 8, rng, 0.7)]


def test_the_checker_agrees_with_every_answer() -> None:
    counts = {"yes": 0, "no": 0}
    for image, pair in questions(80):
        if pair.question.startswith("is a "):
            verdict = check(image, parse(pair.question.removeprefix("is ")).relations)
            assert (all(verdict.present.values()) and verdict.right == len(verdict.outcomes)) is (
                pair.answer == "yes"
            ), pair
            counts[pair.answer] += 1
        elif names := re.fullmatch(r"where is the (.*) from the (.*)", pair.question):
            if pair.answer != APART:
                assert check(image, [Relation(names[1], pair.answer, names[2])]).right == 1, pair
        elif names := re.fullmatch(r"how many (.*)s", pair.question):
            clean = sum(found.obj.name == names[1] for found in inspect(image))
            assert clean == NUMBERS.index(pair.answer), pair
    assert min(counts.values()) > 20


def test_no_question_states_a_held_out_relation() -> None:
    for _, pair in questions(150):
        if pair.question.startswith("is a "):
            assert not is_held_out(parse(pair.question.removeprefix("is ")).relations)
        if names := re.fullmatch(r"where is the (.*) from the (.*)", pair.question):
            assert pair.answer == APART or not is_held_out([Relation(names[1], pair.answer, names[2])])


def test_the_list_of_objects_names_every_object() -> None:
    rng = np.random.default_rng(2)
    placed = lay_out(parse("a red circle left of a blue square"), rng)
    answers = {pair.question: pair.answer for pair in ask(placed, 4, rng)}
    assert {"red circle", "blue square"} == {
        " ".join(entry.split()[:2]) for entry in answers["list the objects"].split(" , ")
    }


def test_missing_objects_are_asked_about_and_denied() -> None:
    rng = np.random.default_rng(1)
    scene, missing = parse("a red circle left of a blue square"), SceneObject("green", "triangle")
    pairs = [pair for _ in range(40) for pair in ask(lay_out(scene, rng), 6, rng, 0.8, [missing])]
    about_missing = [pair for pair in pairs if "green triangle" in pair.question]
    assert {pair.question.split(maxsplit=1)[0] for pair in about_missing} == {"is", "how"}
    assert {pair.answer for pair in about_missing} == {"no", "zero"}


def test_images_of_flux_come_with_what_the_checker_finds_in_them() -> None:
    samples = sample_base_images(checkpoints_dir("flux"), 96, seed=0)
    assert 80 < len(samples) <= 96
    for sample in samples:
        found = {each.obj for each in inspect(sample.image)}
        assert found == {placed.obj for placed in sample.placements}
        assert not found & set(sample.missing)
    assert any(sample.missing for sample in samples)
    batch, asked = VqaBatches(build_tokenizer(), 0, flux_images=samples, flux_share=1.0).draw(8)
    assert len(asked) == 8 == len(batch.input_ids)


def test_a_packed_question_is_answered_as_if_it_were_alone() -> None:
    """Questions about one image share its tokens and nothing else."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model, batches = build_model(tokenizer).eval(), VqaBatches(tokenizer, 0)
    batch, _ = batches.draw(1)
    block = batch.mask[0, 0]
    last = batch.input_ids.shape[1] - 1
    alone = block[last].nonzero().flatten()  # the tokens of the image and of the last question
    with torch.inference_mode():
        inputs = {"pixel_values": batch.pixel_values, "image_grid_thw": batch.image_grid_thw}
        packed = model.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask={"full_attention": batch.mask},
            **inputs,
        ).last_hidden_state[0, last]
        single = model.model(
            input_ids=batch.input_ids[:, alone], position_ids=batch.position_ids[:, :, alone], **inputs
        ).last_hidden_state[0, -1]
        assert torch.isfinite(answer_loss(model, batch)[0])
    assert len(alone) < last
    torch.testing.assert_close(packed, single, rtol=1e-4, atol=1e-4)
