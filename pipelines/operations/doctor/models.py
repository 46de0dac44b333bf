"""Checks the models that a preset loads: shipped, in a folder, in Hugging Face's cache, or still to be downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conf import Settings
from conf.flux import EMBEDDED
from pipelines.common.models import HUB_ID
from pipelines.common.reward_sources import reward_models
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.stage import checks_for
from pipelines.scenes import CHECKPOINTS

LICENCE_FIX = "accept the licence on the model's page at Hugging Face, and set HF_TOKEN to a token of that account"


@dataclass(frozen=True)
class Hub:
    """Hugging Face's hub and this user's cache of it."""

    cache: Path  # folder of downloaded models
    endpoint: str | None = None  # URL; None: the public hub
    offline: bool = False  # HF_HUB_OFFLINE: nothing may be downloaded

    @classmethod
    def from_environment(cls) -> Hub:
        """Reads the variables that huggingface_hub reads: HF_HOME (or HF_HUB_CACHE), HF_ENDPOINT, HF_HUB_OFFLINE."""
        from huggingface_hub import constants

        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        return cls(Path(constants.HF_HUB_CACHE), os.environ.get("HF_ENDPOINT"), offline)


def check_models(settings: Settings, hub: Hub | None = None) -> Iterator[Finding]:
    """Checks every model that the stages of this preset load. `hub` defaults to the environment's."""
    hub = hub or Hub.from_environment()
    made_by_policy = settings.preferences.generated_fraction > 0 and checks_for(settings, "preferences")
    if made_by_policy or checks_for(settings, "policy", "evaluation", "benchmark"):
        yield check_location("flux.model", settings.flux.model, "flux", "model_index.json", hub)
    if checks_for(settings, "reward", "policy", "evaluation"):
        yield check_location("spatialscore.model", settings.spatialscore.model, "qwen2_5_vl", "config.json", hub)
    if checks_for(settings, "preferences"):
        yield from _check_generators(settings, hub)
    if checks_for(settings, "policy", "evaluation"):
        for model in reward_models(settings):
            yield check_location(model.setting, model.location, "", model.file, hub, model.revision)


def _check_generators(settings: Settings, hub: Hub) -> Iterator[Finding]:
    weights = settings.preferences.generators
    for section, weight, generator in (
        ("qwen_image", weights.qwen_image, settings.qwen_image),
        ("hunyuan_image", weights.hunyuan_image, settings.hunyuan_image),
    ):
        if weight:
            yield check_location(f"{section}.model", generator.model, "", "model_index.json", hub)
    if weights.qwen_image and settings.qwen_image.edit_losers:
        yield check_location("qwen_image.edit_model", settings.qwen_image.edit_model, "", "model_index.json", hub)


def check_location(setting: str, location: str, shipped: str, first_file: str, hub: Hub, revision: str = "") -> Finding:
    """Checks that one model can be loaded.

    `shipped` is its folder among the embedded checkpoints, and `first_file` a file that every such model has.
    `revision`: commit or branch on the hub; "": the newest.
    """
    value = f"{setting}={location}"
    if location == EMBEDDED:
        return Finding((CHECKPOINTS / shipped).is_dir(), f"{value} is shipped", "run `spatialt2i scenes pretrain`")
    if Path(location).is_dir():
        fix = f"set {setting} to a folder with {first_file}, as save_pretrained writes it"
        return Finding((Path(location) / first_file).is_file(), f"{value} is a folder with {first_file}", fix)
    if not HUB_ID.fullmatch(location):
        return Finding(False, f"{value}: there is no such folder", "set it to a folder, or to a hub id as owner/model")
    return _check_cached(value, location, first_file, hub, revision)


def _check_cached(value: str, repository: str, first_file: str, hub: Hub, revision: str) -> Finding:
    """Checks that a model of the hub is in the cache and complete, or else that it may be downloaded."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, first_file, cache_dir=hub.cache, revision=revision or None)
    if not isinstance(cached, str):
        return _check_download(value, repository, hub)
    blobs = hub.cache / f"models--{repository.replace('/', '--')}" / "blobs"
    incomplete = len(list(blobs.glob("*.incomplete")))
    if incomplete:
        fix = f"the download was interrupted: continue it with `hf download {repository}`"
        return Finding(False, f"{value} is in the cache, but {incomplete} of its files are incomplete", fix)
    return Finding(True, f"{value} is in the cache")


def _check_download(value: str, repository: str, hub: Hub) -> Finding:
    """Asks the hub whether this account may download the model, unless the hub is to be left alone."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

    missing = f"{value} is not in the cache"
    download = f"run `hf download {repository}` on a machine with network, into the cache that HF_HOME names"
    if hub.offline:
        return Finding(False, f"{missing}, and HF_HUB_OFFLINE is set", download)
    try:
        HfApi(endpoint=hub.endpoint).auth_check(repository)
    except GatedRepoError:
        return Finding(False, f"{missing}, and this account has not accepted its licence", LICENCE_FIX)
    except RepositoryNotFoundError:
        return Finding(False, f"{missing}, and this account sees no model of that name on the hub", LICENCE_FIX)
    except HTTPError as error:
        return Finding(False, f"{missing}, and the hub does not answer: {type(error).__name__}", download)
    return Finding(True, f"{missing}; it can be downloaded at first use")
