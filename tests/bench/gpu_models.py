"""The models that the GPU benchmark of stage 3 measures: published sizes with random weights, and smaller forms."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from actors.spatialscore import SpatialScore, SpatialScoreConfig
from actors.spatialscore.prompt import add_reward_token
from actors.spatialscore.vision_attention import use_equal_windows
from conf import Settings
from pipelines.planning.architectures import policy_architecture, score_architecture
from pipelines.pretrain.vlm_model import SPECIAL, build_image_processor, build_model, build_tokenizer
from tests.support.full_width_flux import full_width_pipeline
from tests.support.tiny_flux import random_flux_pipeline

Form = Literal["full", "full-width", "tiny"]
"""full: FLUX.1-dev. full-width: its width with one block of each kind. tiny: a million parameters."""


@contextmanager
def made_in(dtype: torch.dtype, device: torch.device) -> Generator[None]:
    """Context in which parameters have this dtype and device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def flux_dev_pipeline(device: torch.device) -> FluxPipeline:
    """FLUX.1-dev's transformer (12 billion parameters), VAE and scheduler in bfloat16, with random weights."""
    published = policy_architecture("black-forest-labs/FLUX.1-dev")
    with made_in(torch.bfloat16, device):
        transformer = FluxTransformer2DModel(**published.transformer)
        vae = AutoencoderKL(**published.vae)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    nothing: Any = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return FluxPipeline(scheduler=scheduler, vae=vae.eval(), transformer=transformer.eval(), **nothing)


def pipeline_of(form: Form, device: torch.device) -> FluxPipeline:
    """The FLUX of a form."""
    if form == "full":
        return flux_dev_pipeline(device)
    made = full_width_pipeline(torch.bfloat16, 1, 1) if form == "full-width" else random_flux_pipeline()
    return made.to(device)


def spatialscore_of(form: Form, settings: Settings, device: torch.device) -> SpatialScore:
    """The SpatialScore of the settings with random weights; in the smaller forms that of the scenes world's size.

    Its tokenizer has the scenes world's words, so prompts must be made of these.
    """
    tokenizer, score = build_tokenizer(), settings.spatialscore
    reward_id, small = add_reward_token(tokenizer), form != "full"
    if small:
        backbone, processor = build_model(tokenizer).model, build_image_processor()
    else:
        published = score_architecture(score.model)
        ids = {name: tokenizer.get_vocab()[name] for name in SPECIAL}
        config = Qwen2_5_VLConfig(
            text_config=dict(published.text),
            vision_config=dict(published.vision),
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
        )
        with made_in(torch.bfloat16, device):
            backbone = Qwen2_5_VLForConditionalGeneration(config).model
        use_equal_windows(backbone.visual)
        size = {"shortest_edge": score.pixels, "longest_edge": score.pixels}
        processor = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2, size=size)
    sizes: dict[str, Any] = {}
    if not small:
        sizes = {name: getattr(score, name) for name in ("dtype", "lora_rank", "lora_alpha", "head_width")}
    own = SpatialScoreConfig("", 64 * 64 if small else score.pixels, **sizes)
    lora = LoraConfig(
        r=own.lora_rank,
        lora_alpha=own.lora_alpha,
        target_modules=rf".*{own.lora_targets}",
        trainable_token_indices={"embed_tokens": [reward_id]},
    )
    adapted: PeftModel = get_peft_model(backbone, lora)  # pyright: ignore[reportArgumentType, reportAssignmentType]
    return SpatialScore(own, adapted, tokenizer, processor)
