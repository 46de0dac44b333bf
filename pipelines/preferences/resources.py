"""What the generators of stage 1 request from Ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from conf.generators import DiffusersSettings
from conf.settings import Settings
from pipelines.common.resources import ResourceRequest
from pipelines.preferences.dataset.shards import GeneratorName


def generator_requests(settings: Settings, generators: Iterable[GeneratorName]) -> Iterator[ResourceRequest]:
    """The actors that hold a model. The renderer and services need a small part of a CPU only."""
    cfg = settings.preferences
    for generator in generators:
        if generator == "base":
            yield ResourceRequest(
                "base policy actors", cfg.generator_actors, cfg.generator_cpus, cfg.generator_gpus, "",
                "preferences.generator_cpus or preferences.generator_gpus",
            )  # fmt: skip
        elif generator in ("qwen_image", "hunyuan_image"):
            pool: DiffusersSettings = settings.qwen_image if generator == "qwen_image" else settings.hunyuan_image
            hint = f"{generator}.cpus or {generator}.gpus"
            yield ResourceRequest(f"{generator} actors", pool.actors, pool.cpus, pool.gpus, "", hint)
