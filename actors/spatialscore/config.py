"""The architecture of a SpatialScore, and the files of its directory."""

from __future__ import annotations

from dataclasses import dataclass

from conf.rules import Dtype

CONFIG_FILE = "spatialscore.json"
ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
BACKBONE_FOLDER = "backbone"

USEFUL_FACTOR = 4
"""An image of more than this many times the pixels that the model sees may be shrunk, with little effect on its score.

Shrunk to the size that the model sees, it would lose whole rows of patches, because its sides are rounded to multiples
of a patch once more.
"""


@dataclass(frozen=True)
class SpatialScoreConfig:
    """Architecture and backbone of a SpatialScore. Saved next to its weights."""

    model: str  # backbone: a directory in transformers format, or the hub id of a Qwen2.5-VL
    pixels: int  # every image is resized to about this many pixels
    instruction: str = "{prompt}"  # question for the backbone; {prompt} stands for the user's text
    dtype: Dtype = "float32"  # of the backbone; the head is always float32
    attention: str = "sdpa"  # attention implementation of transformers
    lora_rank: int = 32
    lora_alpha: int = 64
    lora_dropout: float = 0.0
    lora_targets: str = r"language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    head_width: int = 96
    log_sigma_min: float = -5.0
    log_sigma_max: float = 3.0
    merged: bool = False  # whether the LoRA is merged into the backbone; then the model cannot be trained

    @property
    def useful_pixels(self) -> int:
        """Pixels to which an image may be shrunk before it is scored. See USEFUL_FACTOR."""
        return USEFUL_FACTOR * self.pixels
