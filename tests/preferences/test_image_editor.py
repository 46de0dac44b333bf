"""Losers by editing winners, with the real class of Qwen-Image-Edit and tiny random weights."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit

from actors.types import Prompt, Relation
from conf import SettingsError, load
from conf.generators import QwenImageSettings
from pipelines.preferences.roles.base import Edit, PromptPair, RawImage, RawPair, RowSpec
from pipelines.preferences.roles.batches import BatchDrawer
from pipelines.preferences.roles.checked_images import CheckRules, ImageRequest, PairMaker, edit_text
from pipelines.preferences.roles.generators import DiffusersGenerator
from pipelines.preferences.roles.image_cache import ImageCache
from pipelines.preferences.roles.image_editor import EditingGenerator, QwenImageEditor
from tests.support.tiny_generators import save_random_qwen, save_random_qwen_edit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> QwenImageSettings:
    folder = tmp_path_factory.mktemp("models")
    return QwenImageSettings(
        str(save_random_qwen(folder / "qwen")), height=64, width=64, denoise_steps=2, dtype="float32", gpus=0.0,
        edit_losers=True, edit_model=str(save_random_qwen_edit(folder / "edit")), edit_denoise_steps=2,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def small_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline enlarges the source to 1024 x 1024 pixels; 64 x 64 is enough for tiny weights."""
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (64, 64, None))


def _source(seed: int) -> RawImage:
    return RawImage(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8), "qwen_image", seed)


def test_text_source_and_seed_determine_an_edit(settings: QwenImageSettings) -> None:
    editor = QwenImageEditor(settings, CPU)
    plain = ImageRequest("a red circle", 3, _source(0))
    first = editor.edit(plain)
    assert (first.generator, first.seed) == ("qwen_image", 3)
    assert first.pixels.shape == (64, 64, 3) and first.pixels.dtype == np.uint8
    assert (editor.edit(plain).pixels == first.pixels).all()
    for other in (replace(plain, text="a blue square"), replace(plain, seed=4), replace(plain, source=_source(1))):
        assert (editor.edit(other).pixels != first.pixels).any(), other


def test_the_loser_of_a_pair_is_its_edited_winner(settings: QwenImageSettings, tmp_path: Path) -> None:
    editor = QwenImageEditor(settings, CPU)
    both = EditingGenerator(DiffusersGenerator("qwen_image", settings, CPU), editor)
    prompts = [_prompt(index) for index in range(2)]
    sizes: list[int] = []

    def draw(requests: list[ImageRequest]) -> list[RawImage]:
        sizes.append(len(requests))
        return both.draw(requests)

    def make() -> list[RawPair]:
        async def run() -> list[object]:
            cache = ImageCache(str(tmp_path), "qwen_image", asdict(settings.identity()))
            rules = CheckRules(tries=1, audit_fraction=0.0, edit_losers=True)
            return list(await PairMaker(cache.cached(BatchDrawer(draw, 4)), None, rules).generate(prompts))  # pyright: ignore[reportArgumentType]

        pairs = asyncio.run(run())
        assert all(isinstance(pair, RawPair) for pair in pairs), pairs
        return [pair for pair in pairs if isinstance(pair, RawPair)]

    pairs = make()
    for pair, prompt in zip(pairs, prompts, strict=True):
        expected = editor.edit(ImageRequest(edit_text(prompt), prompt.image_seed, pair.winner))
        assert (pair.loser.pixels == expected.pixels).all() and (pair.loser.pixels != pair.winner.pixels).any()
    drawn = sum(sizes)
    again = make()
    assert drawn == 4 and sum(sizes) == 4, "edits are cached, too"
    assert all((a.loser.pixels == b.loser.pixels).all() for a, b in zip(pairs, again, strict=True))


def test_an_edit_of_another_source_is_another_image_of_the_cache(tmp_path: Path) -> None:
    async def draw(request: ImageRequest) -> RawImage:
        assert request.source
        return request.source

    async def run() -> list[np.ndarray]:
        cached = ImageCache(str(tmp_path), "qwen_image", {}).cached(draw)
        return [(await cached(ImageRequest("a red circle", 3, _source(seed)))).pixels for seed in (0, 1)]

    first, second = asyncio.run(run())
    assert (first == _source(0).pixels).all() and (second == _source(1).pixels).all()


def test_settings_of_edits_count_only_if_there_are_edits() -> None:
    plain = QwenImageSettings("a")
    assert replace(plain, edit_model="b", edit_guidance=1.0).identity() == plain.identity()
    edits = replace(plain, edit_losers=True)
    assert edits.identity() != plain.identity() != replace(edits, edit_denoise_steps=8).identity()
    assert replace(edits, edit_denoise_steps=8).identity() != edits.identity()
    with pytest.raises(SettingsError, match=r"edit_losers=true cannot encode .*: set qwen_image\.offload=model"):
        load("scenes", ["qwen_image.edit_losers=true", "qwen_image.offload=text"])


def _prompt(index: int) -> PromptPair:
    before, after = "red circle left of blue square", "red circle right of blue square"
    return PromptPair(
        RowSpec(index, "perturbed", 100 + index),
        Prompt(f"p{index}", f"a {before}", (Relation("red circle", "left of", "blue square"),)),
        "Kitchen",
        f"g{index}",
        (before,),
        Prompt(f"q{index}", f"a {after}", (Relation("red circle", "right of", "blue square"),)),
        (Edit("flip", before, after),),
    )
