"""Benchmarks of the scenes world: every loader reads the files, and the exact checker's answers give its own counts."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from actors.types import Prompt
from pipelines.benchmark import geneval
from pipelines.benchmark.catalogue import find_benchmark
from pipelines.benchmark.items import Answer, Benchmark, BenchmarkItem, Misread
from pipelines.benchmark.scores import Summary
from pipelines.common.images import encode_png
from pipelines.evaluation.cases import Assessment, Case, Result
from pipelines.evaluation.tables import tabulate
from pipelines.scenes.answering import answer_chat, answer_question, find_boxes
from pipelines.scenes.benchmark import write_benchmarks
from pipelines.scenes.checker import check, inspect
from pipelines.scenes.grammar import Scene, held_out_prompts, is_held_out, mirror, parse
from pipelines.scenes.render import lay_out, render

IMAGES = 2


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [*held_out_prompts(12, False, 1), *held_out_prompts(12, True, 1)]


@pytest.fixture(scope="module")
def folder(prompts: list[Prompt], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(root, prompts)
    return root


@pytest.fixture(scope="module")
def images(prompts: list[Prompt]) -> Mapping[str, list[np.ndarray]]:
    """Images of every prompt, of which about a third are mirrored, and some lack an object."""
    rng = np.random.default_rng(0)
    shown: dict[str, list[np.ndarray]] = {}
    for number, prompt in enumerate(prompts):
        scene = parse(prompt.text)
        drawn = [lay_out(mirror(scene) if (number + i) % 3 == 0 else scene, rng) for i in range(IMAGES)]
        shown[prompt.text] = [render(each[1:] if (number + i) % 7 == 0 else each, rng) for i, each in enumerate(drawn)]
    return shown


def load(name: str, root: Path) -> tuple[Benchmark, tuple[BenchmarkItem, ...]]:
    benchmark = find_benchmark(name)
    folder = root / benchmark.folder
    assert not [problem for problem in benchmark.check(folder) if problem.fatal]
    return benchmark, benchmark.load(folder, "spatial")


def ask_checker(name: str, root: Path, images: Mapping[str, list[np.ndarray]], every: int = 1) -> Summary:
    """The whole way of a chat judge: call, reply, parser, scores. `every`: every n-th item is judged."""
    benchmark, items = load(name, root)
    items = items[::every]
    wording, answers = benchmark.wording(root / benchmark.folder), list[Answer]()
    for item in items:
        for number, image in enumerate(images[item.prompt][: item.images]):
            call = benchmark.ask(item, number, 1, wording)
            url = f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"
            content = [{"type": "text", "text": call.text}, {"type": "image_url", "image_url": {"url": url}}]
            parsed = benchmark.parse(item, answer_chat({"messages": [{"role": "user", "content": content}]}))
            assert not isinstance(parsed, Misread), parsed
            answers.append(Answer(item.id, number, parsed.values))
    return benchmark.summarize(items, answers, "fixed")


def test_spatial_relations_of_dpg_equal_those_of_the_evaluation(
    prompts: list[Prompt], folder: Path, images: Mapping[str, list[np.ndarray]]
) -> None:
    results = [
        Result(Case(f"{prompt.id}-{i}", prompt, i), assessed, assessed)
        for prompt in prompts
        for i, image in enumerate(images[prompt.text])
        for verdict in [check(image, prompt.relations)]
        for assessed in [Assessment(0.0, verdict.present, verdict.outcomes, ())]
    ]
    expected = tabulate(results).relations[0]
    cell = ask_checker("dpg", folder, images).find("relation - spatial", "L2")
    assert cell and cell.value == 100 * expected.base.value
    assert 30 < cell.value < 90, "images of both kinds"
    assert cell.denominator == expected.count


def test_single_questions_get_the_answers_of_one_call(folder: Path, images: Mapping[str, list[np.ndarray]]) -> None:
    benchmark, items = load("dpg", folder)
    answers = [
        Answer(
            item.id, i, tuple("yes" if not each.row else answer_question(image, each.text) for each in item.questions)
        )
        for item in items
        for i, image in enumerate(images[item.prompt])
    ]
    one, many = benchmark.summarize(items, answers, "fixed"), ask_checker("dpg", folder, images)
    assert [cell.value for cell in one.cells] == [cell.value for cell in many.cells]


def test_tiif_asks_for_the_short_prompt_and_the_long_one_shows_it_too(folder: Path) -> None:
    _, items = load("tiif", folder)
    short = {(item.group, item.index): item for item in items if item.length == "short"}
    long = [item for item in items if item.length == "long"]
    assert len(short) == len(long) > 12
    for item in long:
        before, after = parse(short[item.group, item.index].prompt), parse(item.prompt)
        assert len(before.objects) == 2 and len(after.objects) == 3
        assert after.relations[0] == before.relations[0] and is_held_out(before.relations)
        lay_out(after, np.random.default_rng(0))  # raises ValueError if the prompt cannot be shown


TURNED = {"left of": "above", "right of": "above", "above": "left of", "below": "left of"}


@pytest.mark.parametrize(
    ("name", "cell_name"),
    [("tiif", "BR, relation questions only|short"), ("unigenbench", "Entity Layout - Two-Dimensional Space")],
)
def test_right_images_score_1_and_images_of_other_relations_0(folder: Path, name: str, cell_name: str) -> None:
    rng, (_, items) = np.random.default_rng(0), load(name, folder)
    for words in ({}, TURNED):
        images: dict[str, list[np.ndarray]] = {}
        for item in items:
            scene = parse(item.prompt)
            changed = Scene(scene.objects, tuple(words.get(word, word) for word in scene.words), scene.parents)
            images[item.prompt] = [render(lay_out(changed, rng), rng)]
        cell = ask_checker(name, folder, images, every=3).find(cell_name)
        assert cell and cell.value == (0.0 if words else 1.0)


def test_geneval_decides_by_the_boxes_of_the_checker(folder: Path, images: Mapping[str, list[np.ndarray]]) -> None:
    _, items = load("geneval", folder)
    rng = np.random.default_rng(0)
    assert {item.group for item in items} == {"position", "color_attr"}
    for item in items:
        scene = parse(item.prompt)
        image = render(lay_out(scene, rng), rng)
        if len(inspect(image)) == len(scene.objects):
            assert geneval.judge(item, 0, boxes_of(image)).values == ("yes",)
        if item.group == "position" and len(scene.words) == 1:
            assert geneval.judge(item, 0, boxes_of(image[::-1, ::-1])).values == ("no",)


def boxes_of(image: np.ndarray) -> list[geneval.Detection]:
    return [
        geneval.Detection(box.name, box.confidence, box.left, box.top, box.right, box.bottom, box.color)
        for box in find_boxes(image)
    ]
