# pyright: reportArgumentType=false
# (diffusers infers the lengths of tuples from their defaults)
"""The embedded FLUX: the classes of diffusers and transformers in a tiny configuration.

64 x 64 pixels -> VAE (factor 8) -> 8 x 8 latents of 8 channels -> 2 x 2 packing -> 16 image tokens of 32 channels, one
per cell of the scenes world. 24 text tokens.
"""

from __future__ import annotations

import math

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from pipelines.scenes.grammar import COLORS, SHAPES

TEXT_TOKENS = 24
WIDTH = 64  # of both text encoders
SPECIAL = ("<pad>", "</s>", "<unk>")
WORDS = ("a", "left", "right", "of", "above", "below", "and", "that", "is", *COLORS, *SHAPES)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer with one token per word, `</s>` at the end and padding with `<pad>`."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_TOKENS,
    )


def clip_encoder() -> CLIPTextModel:
    """Returns an untrained CLIP text encoder. FLUX uses its pooled output, read at `</s>`."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(SPECIAL) + len(WORDS),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_TOKENS,
            projection_dim=WIDTH,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )


def t5_encoder() -> T5EncoderModel:
    """Returns an untrained T5 encoder. FLUX attends to all of its hidden states."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(SPECIAL) + len(WORDS),
            d_model=WIDTH,
            d_kv=16,
            d_ff=2 * WIDTH,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def vae() -> AutoencoderKL:
    """Returns an untrained autoencoder with FLUX's layout: factor 8, no quant convolutions.

    Scaling and shift are set after training.
    """
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 32),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=4,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def transformer() -> FluxTransformer2DModel:
    """Returns an untrained FLUX with guidance embedding: width 96, 2 double and 2 single blocks, 1.1 M parameters."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=3,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Returns FLUX's scheduler with dynamic shifting. Both ends of its line are ln 3, so 16 tokens are shifted by 3."""
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=math.log(3), max_shift=math.log(3))
