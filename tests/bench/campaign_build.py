"""Builds a campaign's candidates in one process: the roles of stage 1, and services that answer without a network.

The Ray Data plan around the same roles is measured by `tests.bench.preferences_at_size`. Here every core that there is
goes into pairs, because a campaign needs tens of thousands of answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import pickle
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.services.budget import LocalBudget
from actors.services.endpoint import Endpoint
from actors.services.keys import Key
from conf.endpoints import EndpointSettings
from conf.settings import Settings
from pipelines.common.images import encode_png
from pipelines.common.paths import run_paths
from pipelines.preferences import ops
from pipelines.preferences.build import open_folder
from pipelines.preferences.dataset.build_folder import BuildFolder
from pipelines.preferences.dataset.shards import Shard, plan_shards, row_specs
from pipelines.preferences.dataset.stored_images import ImageStorage
from pipelines.preferences.finalize import final_settings, finalize
from pipelines.preferences.roles.base import PendingReviewer, ReviewedPair
from pipelines.preferences.roles.chat import ChatPerturber, ChatWriter
from pipelines.preferences.roles.checked_images import CheckRules, PairMaker
from pipelines.preferences.roles.claim_judge import ClaimJudge
from pipelines.preferences.roles.seedream import SeedreamGenerator
from tests.support.openai_server import claims_of, generated, scenes_reply, true_answers

OBEYS, JUDGE_ERRS = 0.90, 0.10
IMAGES, JUDGED = "seedream", "claim_judge"


class LocalService(Endpoint):
    """A service in this process. Its model writes and perturbs as in the tests, obeys relations and judges with errors.

    What it answers depends only on the question. Questions are counted by section.
    """

    def __init__(self, settings: EndpointSettings, asked: Counter[str]) -> None:
        super().__init__(settings, Key("none"), LocalBudget())
        self._section, self._asked = settings.section, asked

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None = None, attempt: int = 0
    ) -> str:
        """See Endpoint."""
        self._asked[self._section] += 1
        body = {"messages": list(messages), "response_format": {"json_schema": schema}}
        if self._section != JUDGED:
            return scenes_reply(body, False)
        image, claims = claims_of(messages[0]["content"])
        who = ("judge", zlib.crc32(image.tobytes()), *claims)
        return json.dumps({"answers": with_errors(true_answers(image, claims), JUDGE_ERRS, *who)})

    async def image(self, prompt: str, size: str, seed: int, source: str = "") -> bytes:
        """See Endpoint. The simulated campaign draws every image anew: it edits none."""
        if source:
            raise ValueError("The simulated image service does not edit. Set edit_losers=false.")
        self._asked[self._section] += 1
        return encode_png(generated(prompt, seed, OBEYS))


def errs(probability: float, *what: object) -> bool:
    """Whether somebody errs about something: always the same for the same arguments."""
    digest = hashlib.blake2b(repr(what).encode(), digest_size=4).digest()  # a checksum would correlate the errors
    return int.from_bytes(digest) < probability * 2**32


def with_errors(answers: Sequence[str], probability: float, *who: object) -> tuple[Any, ...]:
    """The answers of somebody who gives the wrong one with a probability."""
    wrong = {"yes": "no", "no": "yes"}
    return tuple(wrong[one] if errs(probability, *who, i) else one for i, one in enumerate(answers))


def build_campaign(settings: Settings) -> None:
    """Makes the missing shards and ends the build, as `build_preferences` does. A killed build continues."""
    folder = open_folder(settings)
    parts = folder.parts(settings.preferences.pairs)
    for shard in plan_shards(settings.preferences, parts):
        if not folder.is_finished(shard):
            asked: Counter[str] = Counter()
            asyncio.run(_make(shard, folder, settings, asked))
            _calls_file(settings, shard).write_text(json.dumps(asked))
    ending = final_settings(settings.preferences) | {"candidates": sum(parts)}
    finalize(folder, settings.preferences, {"seconds": 0.0, "ending": ending})


def calls_of(settings: Settings) -> Counter[str]:
    """Service -> questions of the whole campaign."""
    files = Path(settings.run_dir).glob("calls-*.json")
    return sum((Counter(json.loads(path.read_text())) for path in files), Counter())


async def _make(shard: Shard, folder: BuildFolder, settings: Settings, asked: Counter[str]) -> None:
    """Writes, perturbs, generates, encodes and saves one shard."""
    cfg = settings.preferences

    def service(section: EndpointSettings) -> LocalService:
        return LocalService(section, asked)

    judge = ClaimJudge(service(settings.claim_judge), settings.claim_judge.attempts)
    maker = PairMaker(
        SeedreamGenerator(service(settings.seedream), settings.seedream).draw,
        judge if cfg.image_check == "judge" else None,
        CheckRules(cfg.tries, cfg.audit_fraction),
    )
    records: list[Any] = list(row_specs(shard, cfg))
    for role in (
        ChatWriter(service(settings.writer), settings.writer).write,
        ChatPerturber(service(settings.perturber), settings.perturber, cfg.single_edit_fraction).perturb,
        maker.generate,
    ):
        records = await ops.map_live_async(records, role)
    packed = {"shard": np.array([pickle.dumps(shard)], dtype=object), "record": np.empty(0)}
    batch = ops.encode_batch(ops.with_records(packed, records), ImageStorage.of(cfg))
    pending = PendingReviewer()
    reviewed = ops.map_live(
        ops.records_of(batch),
        lambda pairs: [ReviewedPair(pair, one) for pair, one in zip(pairs, pending.review(pairs), strict=True)],
    )
    images = str(run_paths(settings).answers)
    ops.save_batch(ops.with_records(batch, reviewed), folder, cfg.test_fraction, images)


def _calls_file(settings: Settings, shard: Shard) -> Path:
    return Path(settings.run_dir) / f"calls-{shard.index:05d}.json"
