"""Images that are generated again until a judge accepts their claims, batches, and the cache of generated images."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.images import decode_image
from actors.services.budget import LocalBudget
from actors.services.endpoint import Endpoint
from actors.services.keys import Key
from actors.types import Prompt
from conf.endpoints import ClaimJudgeSettings, SeedreamSettings
from pipelines.preferences.checks.words import InvalidAnswer
from pipelines.preferences.claims import Answer
from pipelines.preferences.roles.base import Dropped, PromptPair, RawImage, RawPair, RowSpec
from pipelines.preferences.roles.batches import BatchDrawer
from pipelines.preferences.roles.checked_images import CheckRules, ImageRequest, PairMaker, is_audited, try_seed
from pipelines.preferences.roles.claim_judge import ClaimJudge
from pipelines.preferences.roles.image_cache import ImageCache, clear_image_cache
from pipelines.preferences.roles.scenes import SceneGenerator
from pipelines.preferences.roles.seedream import SeedreamGenerator
from tests.support.openai_server import Behaviour, scenes_reply, serving, statement
from tests.support.scene_pairs import scene_prompts


class KnownAnswers:
    """A judge whose answers are known for the n-th image of each text."""

    def __init__(self, of_winner: Sequence[Sequence[Answer]], of_loser: Sequence[Sequence[Answer]]) -> None:
        self._answers = {True: list(of_winner), False: list(of_loser)}

    async def answer(self, image: np.ndarray, prompt: Prompt) -> tuple[Answer, ...]:
        """Takes the side from the first pixel."""
        return tuple(self._answers[bool(image[0, 0, 0])].pop(0))


def _prompt() -> PromptPair:
    """A pair with two objects and one relation, which is changed."""
    prompts = scene_prompts([RowSpec(i, "perturbed", 50 + i) for i in range(30)], 1.0)
    return next(prompt for prompt in prompts if len(prompt.prompt.relations) == 1)


def _make(prompt: PromptPair, judge: KnownAnswers, tries: int = 3, audit: float = 0.0) -> tuple[object, list[int]]:
    """The pair, and the seeds that were drawn."""
    seeds: list[int] = []

    async def draw(request: ImageRequest) -> RawImage:
        seeds.append(request.seed)
        is_winner = request.text == prompt.texts[0]
        return RawImage(np.full((2, 2, 3), 255 * is_winner, np.uint8), "test", request.seed)

    (pair,) = asyncio.run(PairMaker(draw, judge, CheckRules(tries, audit)).generate([prompt]))  # type: ignore[arg-type]
    return pair, seeds


WRONG, RIGHT, DOUBT = ("yes", "yes", "no"), ("yes", "yes", "yes"), ("yes", "unsure", "yes")
STRICT, ORDERED = ("yes", "yes", "no"), ("yes", "no", "no")


@pytest.mark.parametrize(
    ("of_winner", "of_loser", "tries"),
    [
        ([RIGHT], [STRICT], (1, 1)),
        ([DOUBT], [("unsure", "yes", "no")], (1, 1)),  # people decide about doubts
        ([WRONG, WRONG, RIGHT], [RIGHT, STRICT], (3, 2)),
        ([RIGHT], [ORDERED, STRICT], (1, 2)),
        ([RIGHT], [RIGHT, ORDERED, ORDERED], (1, 2)),  # the first one of the second best tier
    ],
)
def test_the_first_image_that_passes_is_kept(
    of_winner: list[tuple[Answer, ...]], of_loser: list[tuple[Answer, ...]], tries: tuple[int, int]
) -> None:
    prompt = _prompt()
    pair, seeds = _make(prompt, KnownAnswers(of_winner, of_loser))
    assert isinstance(pair, RawPair) and pair.check and pair.check.tries == tries and not pair.check.audit
    assert pair.check.winner == of_winner[tries[0] - 1] and pair.check.loser == of_loser[tries[1] - 1]
    assert pair.winner.seed == try_seed(prompt, tries[0] - 1) and pair.loser.seed == try_seed(prompt, tries[1] - 1)
    assert seeds[0] == prompt.image_seed and len(set(seeds[: len(of_winner)])) == len(of_winner)


def test_a_pair_without_a_right_winner_is_dropped_before_its_loser_is_drawn() -> None:
    pair, seeds = _make(_prompt(), KnownAnswers([WRONG] * 3, []))
    assert isinstance(pair, Dropped) and pair.reason == "check" and pair.final and len(seeds) == 3
    assert "no image of 3 passed" in pair.message
    pair, _ = _make(_prompt(), KnownAnswers([RIGHT], [RIGHT] * 3))
    assert isinstance(pair, Dropped) and pair.reason == "check"


def test_an_audited_row_keeps_its_first_images() -> None:
    pair, seeds = _make(_prompt(), KnownAnswers([WRONG], [RIGHT]), audit=1.0)
    assert isinstance(pair, RawPair) and pair.check and pair.check.audit and len(seeds) == 2
    audited = sum(is_audited(RowSpec(i, "perturbed", i), 0.1) for i in range(5000))
    assert 400 < audited < 600


def test_waiting_requests_are_drawn_together_and_halved_if_they_do_not_fit() -> None:
    sizes: list[int] = []

    def draw(requests: Sequence[ImageRequest]) -> list[RawImage]:
        sizes.append(len(requests))
        if len(requests) > most:
            raise torch.OutOfMemoryError("no memory")
        return [RawImage(np.zeros((1, 1, 3), np.uint8), "test", one.seed) for one in requests]

    async def run() -> list[object]:
        drawer = BatchDrawer(draw, 4)
        requests = [ImageRequest("text", seed) for seed in range(6)]
        return await asyncio.gather(*map(drawer, requests), return_exceptions=True)

    most = 2
    assert [image.seed for image in asyncio.run(run()) if isinstance(image, RawImage)] == [0, 1, 2, 3, 4, 5]
    assert sizes == [4, 2, 2, 2]
    most = 0
    assert all("set offload=model" in str(error) for error in asyncio.run(run()))


def test_an_image_is_generated_once_until_its_shard_is_saved(tmp_path: Path) -> None:
    drawn: Counter[ImageRequest] = Counter()

    async def draw(request: ImageRequest) -> RawImage:
        drawn[request] += 1
        return RawImage(np.full((4, 4, 3), request.seed, np.uint8), "test", request.seed)

    request = ImageRequest("a cup", 7)
    cache = ImageCache(str(tmp_path / "00001"), "test", {"model": "m", "denoise_steps": 4})
    first = asyncio.run(cache.cached(draw)(request))
    again = asyncio.run(cache.cached(draw)(request))
    assert drawn == {request: 1} and np.array_equal(first.pixels, again.pixels) and again.seed == 7
    other = ImageCache(str(tmp_path / "00001"), "test", {"model": "m", "denoise_steps": 8})
    asyncio.run(other.cached(draw)(request))
    assert drawn == {request: 2}, "other settings make another image"
    (damaged, _) = sorted((tmp_path / "00001").glob("*.png"))
    damaged.write_bytes(b"no image")
    for one in (cache, other):
        asyncio.run(one.cached(draw)(request))
    assert drawn == {request: 3}
    clear_image_cache(str(tmp_path / "00001"))
    asyncio.run(cache.cached(draw)(request))
    assert drawn == {request: 4}


def test_the_judge_answers_every_claim_and_a_wrong_form_is_asked_for_again() -> None:
    """A real client, against a server whose first answer lacks a claim."""
    prompt = _prompt()
    image = SceneGenerator().generate([prompt])[0].winner.pixels()
    lengths: list[int] = []

    def reply(body: dict[str, Any], untrue: bool) -> str:
        answers = json.loads(scenes_reply(body, untrue))["answers"]
        lengths.append(len(body["messages"]))
        return json.dumps({"answers": answers[len(lengths) == 1 :]})

    async def ask(attempts: int) -> tuple[Answer, ...]:
        settings = ClaimJudgeSettings(url=url, attempts=attempts)
        return await ClaimJudge(Endpoint(settings, Key("none"), LocalBudget()), attempts).answer(image, prompt.prompt)

    with serving(Behaviour(reply=reply)) as url:
        with pytest.raises(InvalidAnswer, match="there must be 3 answers, got 2"):
            asyncio.run(ask(attempts=1))
        lengths.clear()
        assert asyncio.run(ask(attempts=2)) == ("yes", "yes", "yes")
    assert lengths == [1, 3], "the second question shows the model its own answer"


@pytest.mark.parametrize("checked", [False, True])
def test_a_loser_can_be_the_edited_winner(checked: bool) -> None:
    short = _prompt()
    assert short.perturbed
    stated, perturbed = (replace(one, text=statement(one.relations[0])) for one in (short.prompt, short.perturbed))
    prompt = replace(short, prompt=stated, perturbed=perturbed)
    behaviour = Behaviour()
    with serving(behaviour) as url:
        settings = SeedreamSettings(url=url, size="64x64", edit_losers=True)
        judge_settings = ClaimJudgeSettings(url=url)

        async def make() -> list[object]:
            budget = LocalBudget()
            generator = SeedreamGenerator(Endpoint(settings, Key("k"), budget), settings)
            judge = ClaimJudge(Endpoint(judge_settings, Key("k"), budget), 1) if checked else None
            rules = CheckRules(tries=3, audit_fraction=0.0, edit_losers=True)
            return list(await PairMaker(generator.draw, judge, rules).generate([prompt]))

        (pair,) = asyncio.run(make())
    assert isinstance(pair, RawPair)
    winner, *losers = [body for body in behaviour.bodies if "size" in body]
    assert "image" not in winner and winner["prompt"] == prompt.texts[0] and losers
    for body in losers:
        source = decode_image(base64.b64decode(body["image"].partition(",")[2]))
        assert (source == pair.winner.pixels).all()
    (edit,) = prompt.edits
    assert all(text in losers[0]["prompt"] for text in (prompt.texts[1], edit.before, edit.after))
    assert losers[0]["image"].startswith("data:image/png;base64,")
