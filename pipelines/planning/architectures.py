"""The published configurations of the models that the presets name, so that a plan needs no download.

Sources: the `config.json` files of the models' pages at Hugging Face for FLUX.1, Qwen-Image and Qwen2.5-VL. Those of
Stable Diffusion 3.5, Z-Image and FLUX.2-klein were not at hand: their fields are the defaults of the library's classes
and published descriptions, and their parameters add up to the published sizes. Fields that equal a default are left
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.json_files import read_object
from conf import UserError
from conf.flux import EMBEDDED
from pipelines.scenes import CHECKPOINTS

Config = Mapping[str, Any]


@dataclass(frozen=True)
class PolicyArchitecture:
    """A text-to-image model."""

    family: str
    """Class of the pipeline."""
    transformer: Config
    vae: Config
    encoder_parameters: float
    """Parameters of all text encoders."""


@dataclass(frozen=True)
class ScoreArchitecture:
    """A Qwen2.5-VL, the backbone of SpatialScore."""

    text: Config
    vision: Config


def _vae(channels: int, scaling: float, shift: float) -> Config:
    """The autoencoder of Stable Diffusion's form, with 8 pixels a latent position."""
    return {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": channels,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": scaling,
        "shift_factor": shift,
        "sample_size": 1024,
    }


def _sd3(layers: int, heads: int, positions: int, dual: int) -> Config:
    return {
        "num_layers": layers,
        "num_attention_heads": heads,
        "caption_projection_dim": 64 * heads,
        "pos_embed_max_size": positions,
        "dual_attention_layers": tuple(range(dual)),
        "qk_norm": "rms_norm",
    }


def _klein(blocks: int, single_blocks: int, heads: int, text_width: int) -> Config:
    return {
        "num_layers": blocks,
        "num_single_layers": single_blocks,
        "num_attention_heads": heads,
        "joint_attention_dim": 3 * text_width,
        "guidance_embeds": False,
    }


_QWEN3_4B, _QWEN3_8B = 4_022_468_096, 8_190_735_360
_FLUX_VAE = _vae(16, 0.3611, 0.1159)
_SD3_VAE = _vae(16, 1.5305, 0.0609)
_T5_XXL = 4_762_310_656  # its encoder
_FLUX_ENCODERS = _T5_XXL + 123_060_480  # and CLIP-L's text model
_SD3_ENCODERS = _T5_XXL + 123_650_304 + 694_659_840  # and the text models of CLIP-L and CLIP-bigG, with projections
POLICIES: Mapping[str, PolicyArchitecture] = {
    "black-forest-labs/FLUX.1-dev": PolicyArchitecture(
        "FluxPipeline", {"guidance_embeds": True}, _FLUX_VAE, _FLUX_ENCODERS
    ),
    "black-forest-labs/FLUX.1-schnell": PolicyArchitecture("FluxPipeline", {}, _FLUX_VAE, _FLUX_ENCODERS),
    "Qwen/Qwen-Image": PolicyArchitecture("QwenImagePipeline", {}, {}, 8_292_166_656),  # Qwen2.5-VL-7B
    "stabilityai/stable-diffusion-3.5-medium": PolicyArchitecture(
        "StableDiffusion3Pipeline", _sd3(24, 24, 384, dual=13), _SD3_VAE, _SD3_ENCODERS
    ),
    "stabilityai/stable-diffusion-3.5-large": PolicyArchitecture(
        "StableDiffusion3Pipeline", _sd3(38, 38, 192, dual=0), _SD3_VAE, _SD3_ENCODERS
    ),
    **{
        f"Tongyi-MAI/{name}": PolicyArchitecture("ZImagePipeline", {}, _FLUX_VAE, _QWEN3_4B)
        for name in ("Z-Image", "Z-Image-Turbo")
    },
    **{
        f"black-forest-labs/FLUX.2-klein-{name}4B": PolicyArchitecture(
            "Flux2KleinPipeline", _klein(5, 20, 24, 2560), {}, _QWEN3_4B
        )
        for name in ("base-", "")
    },
    **{
        f"black-forest-labs/FLUX.2-klein-{name}9B": PolicyArchitecture(
            "Flux2KleinPipeline", _klein(8, 24, 32, 4096), {}, _QWEN3_8B
        )
        for name in ("base-", "")
    },
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
    known = {each.family for each in POLICIES.values()}
    if family not in known:
        raise UserError(f"flux.model={model} must hold one of {', '.join(sorted(known))}, got a {family}")
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
