"""A run of the scenes world whose benchmark images are rendered: the base is often wrong, the policy seldom."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.files import write_file
from actors.services.budget import BudgetTracker, LocalBudget
from conf import Settings, UserError, load
from pipelines.benchmark.items import Judgement
from pipelines.benchmark.judge_actor import JudgeActor, JudgeChunk, JudgeContext
from pipelines.benchmark.judgement_files import read_judgements
from pipelines.benchmark.judging import JudgeResult, chat_setups, judge_sides, name_judge
from pipelines.benchmark.work import Work, files_of, load_work
from pipelines.common.images import encode_png
from pipelines.common.paths import RunPaths, run_paths
from pipelines.scenes import grammar, render
from pipelines.scenes.answering import answer_chat
from tests.support.openai_server import ContentRefusal, CutAnswer

ERROR_RATES = {"base": 0.6, "policy": 0.15}
"""Share of images that show a perturbed prompt."""


def rendered_run(run_dir: Path, overrides: Sequence[str] = ()) -> tuple[Settings, list[Work]]:
    """Settings and benchmarks of a run with images of both sides."""
    settings = load(
        "scenes",
        [f"run_dir={run_dir}", "evaluation.short_prompts=6", "evaluation.long_prompts=6", *overrides],
    )
    work = load_work(settings)
    for each in work:
        for side in ERROR_RATES:
            render_side(settings, each, side)
    return settings, work


def render_side(settings: Settings, work: Work, side: str) -> None:
    """Renders the images of one side."""
    folder = run_paths(settings).benchmark_images(work.name, side)
    for item, _, name in files_of(work):
        seed = int(hashlib.sha256(f"{side}/{work.name}/{name}".encode()).hexdigest()[:8], 16)
        rng, scene = np.random.default_rng(seed), grammar.parse(item.prompt)
        if rng.random() < ERROR_RATES[side]:
            scene, _ = grammar.perturb(scene, 1, rng)
        write_file(str(folder / name), encode_png(render.render(render.lay_out(scene, rng), rng)))


class Counts(Counter[str]):
    """Counts the work of a judge."""

    def add(self, name: str, count: int) -> None:
        """Adds to a count."""
        self[name] += count


def judge_here(settings: Settings, work: Sequence[Work], sides: Sequence[str], paths: RunPaths) -> JudgeResult:
    """`judge_sides` with the actor's class in this process, without Ray."""
    return judge_sides(settings, work, sides, paths, print, _run_here)


def _run_here(
    settings: Settings, work: Sequence[Work], chunks: Sequence[JudgeChunk], log: Callable[[str], None]
) -> None:
    exact, paths = settings.benchmark.judge == "exact", run_paths(settings)
    budget = LocalBudget(BudgetTracker(settings.budget, "" if exact else str(paths.account)))
    cache = "" if exact else str(paths.answers)
    context = JudgeContext(chat_setups(settings, work), exact, budget, cache, Counts())
    rows = {"chunk": np.array([pickle.dumps(chunk) for chunk in chunks], dtype=object)}

    async def run() -> list[str]:
        return [error for error in (await JudgeActor(context)(rows))["error"] if error]

    if errors := asyncio.run(run()):
        raise UserError(errors[0])


def judgements_of(settings: Settings, work: Work, side: str) -> list[Judgement]:
    """The judgements of a side by the judge of the settings."""
    file = run_paths(settings).benchmark_judgements(work.name, name_judge(settings, work).folder, side)
    found = read_judgements(str(file))
    assert found is not None
    return found


class TroubledReply:
    """The exact checker's reply, after a first one that is malformed, refused or cut, by turns."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()

    def __call__(self, body: dict[str, Any], _: bool) -> str:
        """The reply to a chat request."""
        image = next(part for part in body["messages"][-1]["content"] if part["type"] == "image_url")
        content = base64.b64decode(image["image_url"]["url"].partition(",")[2])
        digest = hashlib.sha256(content + answer_chat(body).encode()).hexdigest()
        self.asked[digest] += 1
        reply, turn = answer_chat(body), int(digest[:8], 16) % 4
        if self.asked[digest] > 1 or turn == 3:
            return reply
        self.troubles[("malformed", "refused", "cut")[turn]] += 1
        if turn == 0:
            return "I would rather describe the image: it is lovely."
        raise (ContentRefusal() if turn == 1 else CutAnswer(reply[:20]))
