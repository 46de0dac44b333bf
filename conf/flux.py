"""The text-to-image policy: which model, its LoRA, and the size of what it draws."""

from __future__ import annotations

from dataclasses import dataclass

from conf.rules import at_least, one_of

EMBEDDED = "embedded"
"""Model location that means: the tiny checkpoint shipped in `pipelines/scenes/checkpoints`."""


@dataclass(frozen=True)
class FluxSettings:
    """The text-to-image policy: which model, its LoRA, and the size of what it draws. FLUX or Qwen-Image."""

    model: str = EMBEDDED  # "embedded", a directory in diffusers format, or a hub id
    height: int = 64  # pixels
    width: int = 64  # pixels
    max_sequence_length: int = 24  # tokens a prompt is padded to (FLUX) or cut off after (Qwen-Image)
    guidance: float = 3.5  # FLUX's guidance embedding, not classifier-free guidance; Qwen-Image has none
    dtype: str = "float32"  # of the frozen base
    text_encoders_on_cpu: bool = False  # frees 10 GB on the GPU of FLUX.1-dev; an actor keeps what it encoded
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_targets: tuple[str, ...] = (  # how the prompt is read, and where it is looked at; see docs/experiments.md
        "attn.to_q", "attn.to_k", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "ff_context.net.0.proj", "ff_context.net.2",
    )  # fmt: skip
    gradient_checkpointing: bool = False
    vae_decoding: str = "batch"  # batch | sliced (picture by picture) | tiled (in tiles, for above 1024 pixels)
    compile: bool = False  # torch.compile the transformer's blocks, for sampler and learner; needs a C++ compiler

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if value % 16:
                raise ValueError(f"flux.{name} must be a multiple of 16 (VAE 8 x packing 2), got {value}: round it")
        one_of("flux.dtype", self.dtype, ("float32", "bfloat16"))
        one_of("flux.vae_decoding", self.vae_decoding, ("batch", "sliced", "tiled"))
        at_least("flux.max_sequence_length", self.max_sequence_length, 1)
        at_least("flux.lora_rank", self.lora_rank, 1)
        at_least("flux.lora_alpha", self.lora_alpha, 1)
