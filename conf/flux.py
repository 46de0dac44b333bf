"""`flux`: the text-to-image policy, its LoRA, and the size of its images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.errors import SettingsError
from conf.rules import Dtype, Section, at_least

EMBEDDED = "embedded"
"""Model location that means the tiny checkpoint shipped in `pipelines/scenes/checkpoints`."""


@dataclass(frozen=True)
class FluxSettings(Section):
    """The text-to-image policy of any family (FLUX, Qwen-Image, …): the model, its LoRA, and the size of its images."""

    section: ClassVar[str] = "flux"

    model: str = EMBEDDED
    """The model: "embedded", a directory in diffusers format, or a hub id. Paper: FLUX.1-dev."""

    height: int = 64
    """Height of an image in pixels, a multiple of 16. Flow-GRPO: 512."""

    width: int = 64
    """Width of an image in pixels, a multiple of 16. Flow-GRPO: 512."""

    max_sequence_length: int = field(default=24, metadata=at_least(1))
    """Text tokens: prompts are padded to this length (FLUX, Stable Diffusion 3) or cut to it (Qwen-Image, Z-Image)."""

    guidance: float = 3.5
    """Guidance embedding of FLUX.1, not classifier-free guidance. The other models have none."""

    true_cfg: float = field(default=1.0, metadata=at_least(1))
    """Scale of classifier-free guidance, in sampler and learner, of all models but FLUX.1. Above 1, an image is two
    rows of each forward pass. 1: none. Z-Image's own `guidance_scale` is this minus 1."""

    negative_prompt: str = " "
    """Text that classifier-free guidance leads away from. Qwen-Image's own example is a blank. FLUX.2-klein always
    takes the empty text."""

    cfg_norm_limit: float = field(default=0.0, metadata=at_least(0))
    """Largest norm of an image's guided velocity, in units of that with the prompt (`cfg_normalization` of Z-Image).
    0: no limit. Z-Image only."""

    cfg_truncation: float = field(default=1.0, metadata=at_least(0))
    """No guidance where 1 - s is above this, with noise level s (`cfg_truncation` of Z-Image). Z-Image only."""

    dtype: Dtype = "float32"
    """Precision of the frozen base model."""

    text_encoders_on_cpu: bool = False
    """Keep the text encoders on the CPU. It saves 10 GB of GPU memory with FLUX.1-dev; encodings are cached."""

    lora_rank: int = field(default=16, metadata=at_least(1))
    """Rank of the LoRA. Paper: 32."""

    lora_alpha: int = field(default=32, metadata=at_least(1))
    """Scale of the LoRA (alpha). Flow-GRPO: twice the rank."""

    lora_targets: tuple[str, ...] = (
        "attn.to_q",
        "attn.to_k",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    )
    """Linear layers with a LoRA. The default adapts the text stream and the attention to it."""

    checkpoint_every: int = field(default=0, metadata=at_least(0))
    """Activation checkpointing: every n-th transformer block is computed again in the backward pass, to save memory.
    1: all blocks. 0: none, the fastest."""

    vae_decoding: Literal["batch", "sliced", "tiled"] = "batch"
    """Decode images together, one by one (sliced), or in tiles (tiled, for more than 1024 pixels)."""

    compile: bool = False
    """Use torch.compile for the transformer blocks, in sampler and learner. It needs a C++ compiler."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("height", "width"):
            value = getattr(self, name)
            if value <= 0 or value % 16:
                raise SettingsError(
                    f"flux.{name} must be a positive multiple of 16 (VAE 8 x packing 2), got {value}: round it"
                )
