"""Image generators of stage 1 that run on the cluster: diffusers pipelines, and what makes them faster."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, cast

from conf.errors import SettingsError
from conf.rules import Dtype, Section, above, at_least

Attention = Literal["default", "native", "cudnn", "flash", "flash_3", "sage", "xformers"]
"""Implementations of attention that diffusers knows."""


@dataclass(frozen=True)
class DiffusersSettings(Section):
    """A diffusers pipeline that generates images on actors of its own."""

    model: str = ""
    """Directory in diffusers format, or a hub id."""

    height: int = field(default=1024, metadata=at_least(1))
    """Height of an image in pixels."""

    width: int = field(default=1024, metadata=at_least(1))
    """Width of an image in pixels."""

    denoise_steps: int = field(default=50, metadata=at_least(1))
    """Denoise steps of an image."""

    guidance: float = 4.0
    """Guidance scale: true_cfg_scale of Qwen-Image (1: none, half the work), distilled_guidance_scale of Hunyuan."""

    shift: float = field(default=0.0, metadata=at_least(0))
    """Shift of the noise schedule, the same for every size: 3 for Qwen-Image-Lightning. 0: the repository's own."""

    lora: str = ""
    """LoRA that is merged into the weights: a directory or a hub id, as lightx2v/Qwen-Image-Lightning. Empty: none."""

    lora_file: str = ""
    """File of the LoRA in its repository, e.g. Qwen-Image-Lightning-8steps-V2.0.safetensors. Empty: the only one."""

    lora_scale: float = field(default=1.0, metadata=above(0))
    """Weight of the LoRA."""

    dtype: Dtype = "bfloat16"
    """Precision of the weights."""

    quantisation: Literal["none", "fp8"] = "none"
    """fp8: keep the transformer's weights in 8 bits, and compute in `dtype`. Half the memory, a little slower."""

    cache: Literal["none", "first_block"] = "none"
    """first_block: skip the other blocks of a denoise step if the first one changed little since the step before."""

    cache_threshold: float = field(default=0.05, metadata=above(0))
    """Relative change of the first block below which the others are skipped. Higher is faster and less exact."""

    attention: Attention = "default"
    """Implementation of attention. flash, flash_3, sage and xformers need their packages, the first three batch=1."""

    compile: bool = False
    """Compile the transformer's blocks. The first image takes minutes longer."""

    vae_tiling: bool = False
    """Decode an image in tiles: less memory, so that large images may not need `offload`."""

    offload: Literal["none", "text", "model", "sequential"] = "none"
    """Keep on the GPU: everything (none), text encoders first and then the rest, for a shard (text), one model part at
    a time, for a batch (model), one layer at a time (sequential, slow)."""

    batch: int = field(default=4, metadata=at_least(1))
    """Images in one call."""

    actors: int = field(default=1, metadata=at_least(1))
    """Actors that hold the pipeline from the start."""

    max_actors: int = field(default=0, metadata=at_least(0))
    """Actors at most: more of them start on GPUs that another generator has finished with. 0: no more than `actors`."""

    threads: int = field(default=4, metadata=at_least(1))
    """CPU threads of an actor."""

    cpus: float = field(default=1.0, metadata=at_least(0))
    """Ray CPUs that an actor reserves."""

    gpus: float = field(default=1.0, metadata=at_least(0))
    """Ray GPUs that an actor reserves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offload != "none" and not self.gpus:
            raise SettingsError(
                f"{self.key('offload')}={self.offload} moves parts of the model to a GPU, but {self.key('gpus')}=0: "
                "reserve one"
            )
        if self.lora_file and not self.lora:
            raise SettingsError(f"{self.key('lora_file')} names a file of {self.key('lora')}, which is not set: set it")
        if self.attention in ("flash", "flash_3", "sage") and self.batch > 1:
            raise SettingsError(
                f"{self.key('attention')}={self.attention} cannot mask the padding of a batch, got "
                f"{self.key('batch')}={self.batch}: set {self.key('batch')}=1"
            )

    def identity(self) -> DiffusersSettings:
        """Only the fields that determine the images; placement, batching and rounding are set to their defaults."""
        plain = type(self)()
        return replace(
            self,
            attention=plain.attention,
            compile=plain.compile,
            offload=plain.offload,
            batch=plain.batch,
            actors=plain.actors,
            max_actors=plain.max_actors,
            threads=plain.threads,
            cpus=plain.cpus,
            gpus=plain.gpus,
        )


@dataclass(frozen=True)
class QwenImageSettings(DiffusersSettings):
    """The generator qwen_image: Qwen/Qwen-Image, Qwen/Qwen-Image-2512, and others of the same pipeline class."""

    section: ClassVar[str] = "qwen_image"

    edit_losers: bool = False
    """Make the loser by editing the winner with `edit_model`: little else than the changed relations differs."""

    edit_model: str = "Qwen/Qwen-Image-Edit"
    """Directory or hub id of a QwenImageEditPipeline. It is loaded beside `model` and needs as much memory again."""

    edit_denoise_steps: int = field(default=50, metadata=at_least(1))
    """Denoise steps of an edit."""

    edit_guidance: float = 4.0
    """Guidance scale of an edit: true_cfg_scale. 1: none, half the work."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.edit_losers and self.offload == "text":
            raise SettingsError(
                f"{self.key('edit_losers')}=true cannot encode its texts before its images, because the text encoder "
                f"sees the winner, got {self.key('offload')}=text: set {self.key('offload')}=model"
            )

    def identity(self) -> QwenImageSettings:
        """See DiffusersSettings. What edits would be like does not count if there are none."""
        same = cast(QwenImageSettings, super().identity())
        if self.edit_losers:
            return same
        plain = type(self)()
        return replace(
            same,
            edit_model=plain.edit_model,
            edit_denoise_steps=plain.edit_denoise_steps,
            edit_guidance=plain.edit_guidance,
        )


@dataclass(frozen=True)
class HunyuanImageSettings(DiffusersSettings):
    """The generator hunyuan_image: HunyuanImage-2.1 and its distilled repository."""

    section: ClassVar[str] = "hunyuan_image"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora:
            raise SettingsError(
                f"{self.key('lora')} must be empty, because the pipeline of HunyuanImage loads no LoRA, got "
                f"{self.lora!r}: use the distilled repository instead, see docs/preferences.md"
            )
