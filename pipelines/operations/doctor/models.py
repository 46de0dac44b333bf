"""The models that a preset loads: shipped, in a folder, in Hugging Face's cache, or still to be fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from conf import Settings
from conf.flux import EMBEDDED
from pipelines.operations.doctor.finding import Finding

TOKEN_FIX = "accept the licence on the model's page at Hugging Face, and set HF_TOKEN to a token of that account"


def check_models(settings: Settings) -> Iterator[Finding]:
    """Every model that the stages of this preset load."""
    yield _model("flux.model", settings.flux.model, "flux", "model_index.json")
    yield _model("spatialscore.model", settings.spatialscore.model, "qwen2_5_vl", "config.json")
    mix = settings.preferences.generators
    for section, used, painter in (
        ("qwen_image", mix.qwen_image, settings.qwen_image),
        ("hunyuan_image", mix.hunyuan_image, settings.hunyuan_image),
    ):
        if used:
            yield _model(f"{section}.model", painter.model, "", "model_index.json")
    if settings.rewards.detector:
        yield _model("detector.model", settings.detector.model, "", "config.json")


def _model(setting: str, location: str, shipped: str, first_file: str) -> Finding:
    """Whether one model can be loaded. `first_file` is what every folder of its kind holds."""
    from pipelines.scenes import CHECKPOINTS

    named = f"{setting}={location}"
    if location == EMBEDDED:
        return Finding((CHECKPOINTS / shipped).is_dir(), f"{named} is shipped", "spatialt2i scenes pretrain")
    if Path(location).is_dir():
        mend = f"name a folder that holds {first_file}, as save_pretrained writes it"
        return Finding((Path(location) / first_file).is_file(), f"{named} is a folder with {first_file}", mend)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", location):
        return Finding(False, f"{named} is no folder here", "name a folder, or a hub id such as owner/model")
    return _hub_model(named, location, first_file)


def _hub_model(named: str, repository: str, first_file: str) -> Finding:
    from huggingface_hub import constants, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, first_file)
    if not isinstance(cached, str):
        return _fetchable(named, repository)
    blobs = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "blobs")
    halves = list(blobs.glob("*.incomplete"))
    mend = "its download was cut off, and goes on when it is loaded with the network there: `hf download` does it now"
    return Finding(not halves, f"{named} is in the cache" + (f", {len(halves)} files in part" if halves else ""), mend)


def _fetchable(named: str, repository: str) -> Finding:
    """Asks the hub whether this account may have the model, unless it is to be left alone."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

    missing = f"{named} is not in the cache"
    fetch = f"fetch it where there is a network, `hf download {repository}`, into the cache that HF_HOME names"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return Finding(False, f"{missing}, and HF_HUB_OFFLINE is set", fetch)
    try:
        HfApi(endpoint=os.environ.get("HF_ENDPOINT")).auth_check(repository)
    except GatedRepoError:
        return Finding(False, f"{missing}, and its licence is not accepted by this account", TOKEN_FIX)
    except RepositoryNotFoundError:
        return Finding(False, f"{missing}, and the hub has none of that name for this account", TOKEN_FIX)
    except HTTPError as error:
        return Finding(False, f"{missing}, and the hub does not answer: {type(error).__name__}", fetch)
    return Finding(True, f"{missing}, and may be fetched at first use")
