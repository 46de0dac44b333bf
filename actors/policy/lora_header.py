"""What a LoRA file says about itself before its weights are read: its layers, their shapes and its scale.

Read are safetensors files as diffusers and peft write them. Imports no torch, so that a command can refuse a file at
once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from actors.files import file_system
from actors.json_files import read_object

WEIGHT_NAME = "pytorch_lora_weights.safetensors"
"""File of a LoRA in the format of diffusers."""
PEFT_WEIGHT_NAME = "adapter_model.safetensors"
"""File of a LoRA in the format of peft, beside its configuration."""
PEFT_CONFIG = "adapter_config.json"
DIFFUSERS_METADATA = "lora_adapter_metadata"
"""Key of the configuration in the metadata of a file of newer versions of diffusers."""
MAX_HEADER_BYTES = 100_000_000
"""Largest header of a safetensors file."""

_KEY = re.compile(r"(?:transformer\.|base_model\.model\.(?:transformer\.)?)?(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class LoraHeader:
    """A LoRA of a transformer, of one rank. Keys are those of `Policy.lora_state`."""

    shapes: Mapping[str, tuple[int, ...]]
    """Key -> shape: A [rank, in], B [out, rank]."""
    names: Mapping[str, str]
    """Key -> key in the file."""
    scale: float
    """The LoRA adds scale · B A to a layer's weight. In peft's terms: alpha / rank."""

    @property
    def rank(self) -> int:
        """The rank of all layers."""
        return next(shape[0] for key, shape in self.shapes.items() if ".lora_A." in key)

    @property
    def layers(self) -> list[str]:
        """The names of the adapted layers."""
        return [key.removesuffix(".lora_A.weight") for key in self.shapes if ".lora_A." in key]


def read_lora_header(location: str) -> LoraHeader:
    """Reads the header of a safetensors file, a path or URI.

    Raises FileNotFoundError if it is absent, and ValueError if it holds no LoRA of a transformer with one rank.
    """
    header = _read_header(location)
    metadata = header.pop("__metadata__", {})
    names: dict[str, str] = {}
    for name in header:
        match = _KEY.fullmatch(name)
        if not match or name.startswith("text_encoder"):
            raise ValueError(
                f"{location} holds {name}, which is no LoRA weight of a transformer: save the LoRA with "
                "save_lora_weights of diffusers or save_pretrained of peft"
            )
        names[f"{match[1]}.lora_{match[2]}.weight"] = name
    shapes = {key: tuple(int(size) for size in header[name]["shape"]) for key, name in names.items()}
    _check_pairs(location, shapes)
    return LoraHeader(shapes, names, _scale_of(location, metadata))


def unmatched_layers(layers: Sequence[str], targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """The layers that no pattern of `flux.lora_targets` matches, and the patterns that match no layer."""

    def matches(layer: str, target: str) -> bool:
        return fnmatchcase(layer, target) or fnmatchcase(layer, f"*.{target}")

    extra = [layer for layer in layers if not any(matches(layer, target) for target in targets)]
    return extra, [target for target in targets if not any(matches(layer, target) for layer in layers)]


def _read_header(location: str) -> dict[str, Any]:
    system, path = file_system(location)
    with system.open_input_file(path) as stream:
        size = int.from_bytes(stream.read(8), "little")
        content = stream.read(size) if 0 < size <= MAX_HEADER_BYTES else b""
    try:
        header = json.loads(content)
        if not isinstance(header, dict) or len(content) < size:
            raise ValueError
    except ValueError:
        raise ValueError(f"{location} is no safetensors file") from None
    return header


def _check_pairs(location: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless each layer has an A and a B, and all have one rank."""
    ranks: dict[int, str] = {}
    for key, shape in shapes.items():
        other = key.replace(".lora_A.", ".lora_B.") if ".lora_A." in key else key.replace(".lora_B.", ".lora_A.")
        if other not in shapes or len(shape) != 2:
            raise ValueError(f"{location}: {key} has shape {list(shape)}, and must be half of a pair of matrices")
        ranks.setdefault(shape[0] if ".lora_A." in key else shape[1], key)
    if len(ranks) != 1:
        found = ", ".join(f"{rank} ({key})" for rank, key in ranks.items()) or "no weights"
        raise ValueError(f"{location} must hold a LoRA of one rank, found {found}")


def _scale_of(location: str, metadata: Mapping[str, str]) -> float:
    """Alpha / rank: of peft's configuration, of diffusers' metadata, or 1, with which diffusers reads other files."""
    path, mark, query = location.partition("?")  # of a URI
    if path.endswith(f"/{PEFT_WEIGHT_NAME}"):
        config = read_object(f"{path.removesuffix(PEFT_WEIGHT_NAME)}{PEFT_CONFIG}{mark}{query}")
    elif text := metadata.get(DIFFUSERS_METADATA):
        config = {key.removeprefix("transformer."): value for key, value in json.loads(text).items()}
    else:
        return 1.0
    if used := [key for key in ("use_dora", "rank_pattern", "alpha_pattern") if config.get(key)]:
        raise ValueError(f"{location} uses peft's {', '.join(used)}: a policy has a plain LoRA of one rank and alpha")
    try:
        alpha, rank = float(config["lora_alpha"]), float(config["r"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{location}: its configuration names no lora_alpha and r") from error
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
