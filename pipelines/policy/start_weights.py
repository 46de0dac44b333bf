"""Reads the LoRA that `policy.start_from` names, and keeps it with the checkpoints of the run.

A LoRA adds scale · B A to a weight. The policy's scale is `flux.lora_alpha` / `flux.lora_rank`, so B of a file with
another scale is multiplied by the quotient: the policy starts as exactly that LoRA, whatever its alpha was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load, save

from actors.files import DamagedFileError, digest, exists, read_file, write_file
from actors.policy.lora import match_targets
from actors.policy.start import StartLora
from conf import Settings, SettingsError
from pipelines.common.fingerprints import SHORT_DIGITS
from pipelines.policy.checkpoint import Checkpoints
from pipelines.policy.export import read_checkpoint_lora
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.start_source import CheckpointFolder, LoraFile, StartSource, check_start, find_start, is_begun


@dataclass(frozen=True)
class KeptStart:
    """The start of a run, and what the run records of it."""

    lora: StartLora
    note: str
    """What it is, for the lineage."""

    @property
    def fingerprint(self) -> str:
        """Its digest in the identity of the run."""
        return self.lora.sha256[:SHORT_DIGITS]


def check_start_weights(settings: Settings) -> None:
    """Raises SettingsError if a run that is about to begin cannot start from `policy.start_from`. Needs no Ray.

    Unlike `check_start` it also compares the shapes with those of the base, of which it reads the configuration only.
    """
    if settings.policy.start_from and not is_begun(settings):
        check_start(settings)
        _check_shapes(_shapes_of(find_start(settings)), settings)


def keep_start_lora(settings: Settings, checkpoints: Checkpoints) -> KeptStart | None:
    """The start of the run, kept beside its checkpoints; None if it starts from its base.

    It is read from `policy.start_from` once, when the run begins. Later it is the copy, also if the original changed.
    Raises SettingsError if the original cannot be used, or if the copy is needed and gone.
    """
    policy = settings.policy
    if not policy.start_from:
        return None
    if is_begun(settings):
        if exists(checkpoints.start):
            return KeptStart(StartLora(checkpoints.start, digest(read_file(checkpoints.start))), "")
        if policy.algorithm.kl_reference == "base":
            return None
        raise SettingsError(
            f"policy.algorithm.kl_reference=start needs {checkpoints.start}, which is gone: restore it from a backup, "
            "or set policy.algorithm.kl_reference=base"
        )
    source = find_start(settings)
    content = save({key: value.contiguous() for key, value in sorted(_read(source, settings).items())})
    write_file(checkpoints.start, content)
    sha256 = digest(content)
    return KeptStart(StartLora(checkpoints.start, sha256), f"{source.kind}, SHA-256 {sha256[:SHORT_DIGITS]}")


def _read(source: StartSource, settings: Settings) -> dict[str, torch.Tensor]:
    """The weights by the policy's keys, float32, with B in the policy's scale."""
    try:
        if isinstance(source, LoraFile):
            weights = load(read_file(source.location))
            lora = {key: weights[name].float() for key, name in source.header.names.items()}
            scale = source.header.scale
        else:
            arrays = read_checkpoint_lora(source.location, source.manifest, settings.evaluation.use_ema)
            lora = {key: torch.from_numpy(value) for key, value in arrays.items()}
            scale = _number(source, "flux.lora_alpha") / _number(source, "flux.lora_rank")
    except DamagedFileError as error:
        raise SettingsError(f"policy.start_from={settings.policy.start_from} is damaged: {error}") from error
    factor = scale / (settings.flux.lora_alpha / settings.flux.lora_rank)
    lora = {key: value * factor if ".lora_B." in key else value for key, value in lora.items()}
    _check_shapes({key: tuple(value.shape) for key, value in lora.items()}, settings)
    return lora


def _number(source: CheckpointFolder, name: str) -> float:
    return float(str(source.setting(name)))


def _shapes_of(source: StartSource) -> Mapping[str, tuple[int, ...]] | None:
    """The shapes, if they are known without reading the weights."""
    return source.header.shapes if isinstance(source, LoraFile) else None


def _check_shapes(shapes: Mapping[str, tuple[int, ...]] | None, settings: Settings) -> None:
    """Raises SettingsError unless keys and shapes are those of the policy."""
    if shapes is None:
        return
    wanted = _policy_shapes(settings)
    prefix = f"policy.start_from={settings.policy.start_from} must have the shapes of the policy"
    if different := sorted(shapes.keys() ^ wanted.keys()):
        which = "is only in the LoRA" if different[0] in shapes else "is only in the policy"
        raise SettingsError(
            f"{prefix}, but {len(different)} weights differ, e.g. {different[0]} {which}: use a LoRA of flux.model="
            f"{settings.flux.model}, with the layers of flux.lora_targets"
        )
    for key, shape in wanted.items():
        if shapes[key] != shape:
            raise SettingsError(
                f"{prefix}, but {key} is {list(shapes[key])} instead of {list(shape)}: use a LoRA of flux.model="
                f"{settings.flux.model} with flux.lora_rank={settings.flux.lora_rank}"
            )


def _policy_shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the policy's LoRA, from the base's configuration."""
    base, rank = flux_location(settings), settings.flux.lora_rank
    pipeline: Any = DiffusionPipeline.load_config(base)
    family: Any = getattr(diffusers, pipeline["transformer"][1])
    with torch.device("meta"):
        transformer = family.from_config(family.load_config(base, subfolder="transformer"))
    shapes: dict[str, tuple[int, ...]] = {}
    for name in match_targets(transformer, settings.flux.lora_targets):
        layer = transformer.get_submodule(name)
        shapes[f"{name}.lora_A.weight"] = (rank, layer.in_features)
        shapes[f"{name}.lora_B.weight"] = (layer.out_features, rank)
    return shapes
