"""The published configurations of the models that the presets name, so that a plan needs no download.

Sources: the `config.json` files of the models' pages at Hugging Face. Fields that equal the default of the library's
class are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from actors.json_files import read_object
from conf import UserError
from conf.flux import EMBEDDED
from pipelines.scenes import CHECKPOINTS

Config = Mapping[str, Any]


@dataclass(frozen=True)
class PolicyArchitecture:
    """A text-to-image model."""

    family: Literal["FluxPipeline", "QwenImagePipeline"]
    transformer: Config
    vae: Config
    encoder_parameters: float
    """Parameters of all text encoders."""


@dataclass(frozen=True)
class ScoreArchitecture:
    """A Qwen2.5-VL, the backbone of SpatialScore."""

    text: Config
    vision: Config


_FLUX_VAE: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 16,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "sample_size": 1024,
}
_FLUX_ENCODERS = 4_762_310_656 + 123_060_480  # T5-XXL's encoder and CLIP-L's text model
POLICIES: Mapping[str, PolicyArchitecture] = {
    "black-forest-labs/FLUX.1-dev": PolicyArchitecture(
        "FluxPipeline", {"guidance_embeds": True}, _FLUX_VAE, _FLUX_ENCODERS
    ),
    "black-forest-labs/FLUX.1-schnell": PolicyArchitecture("FluxPipeline", {}, _FLUX_VAE, _FLUX_ENCODERS),
    "Qwen/Qwen-Image": PolicyArchitecture("QwenImagePipeline", {}, {}, 8_292_166_656),  # Qwen2.5-VL-7B
}
"""Hub id -> architecture."""


def _qwen(hidden: int, inner: int, layers: int, heads: int, groups: int, vision_inner: int) -> ScoreArchitecture:
    text = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": 151936 if hidden == 2048 else 152064,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": vision_inner,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "out_hidden_size": hidden,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    return ScoreArchitecture(text, vision)


SCORES: Mapping[str, ScoreArchitecture] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen(2048, 11008, 36, 16, 2, 3420),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen(3584, 18944, 28, 28, 4, 3420),
    "Qwen/Qwen2.5-VL-32B-Instruct": _qwen(5120, 27648, 64, 40, 8, 3456),
}
"""Hub id -> architecture."""


def policy_architecture(model: str) -> PolicyArchitecture:
    """The architecture of `flux.model`. Raises UserError for a hub id that is not in POLICIES, or a wrong folder."""
    if model in POLICIES:
        return POLICIES[model]
    folder = CHECKPOINTS / "flux" if model == EMBEDDED else Path(model)
    family = _config(folder / "model_index.json", "flux.model", model, POLICIES)["_class_name"]
    if family not in ("FluxPipeline", "QwenImagePipeline"):
        raise UserError(f"flux.model={model} must hold a FluxPipeline or a QwenImagePipeline, got a {family}")
    weights = [file for part in folder.glob("text_encoder*") for file in part.glob("*.safetensors")]
    return PolicyArchitecture(
        family,
        _config(folder / "transformer" / "config.json", "flux.model", model, POLICIES),
        _config(folder / "vae" / "config.json", "flux.model", model, POLICIES),
        sum(file.stat().st_size for file in weights) / 2,  # published in bfloat16
    )


def score_architecture(model: str) -> ScoreArchitecture:
    """The architecture of `spatialscore.model`. Raises UserError for a hub id that is not in SCORES, or a wrong folder.

    A SpatialScore directory refers to its backbone: name that one.
    """
    if model in SCORES:
        return SCORES[model]
    folder = CHECKPOINTS / "qwen2_5_vl" if model == EMBEDDED else Path(model)
    config = _config(folder / "config.json", "spatialscore.model", model, SCORES)
    text = {key: value for key, value in config.get("text_config", config).items() if key != "vision_config"}
    return ScoreArchitecture(text, config["vision_config"])


def _config(file: Path, setting: str, model: str, known: Mapping[str, object]) -> Config:
    if not file.is_file():
        raise UserError(
            f"{setting}={model}: its configuration is not known here (known: {', '.join(known)}), and there is no file "
            f"{file}: name the folder of a downloaded model, as `hf download {model}` prints it"
        )
    return read_object(str(file))
