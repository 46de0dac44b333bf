"""A Qwen3 of the real class with random weights: the text encoder of Z-Image and FLUX.2-klein."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


def random_qwen3(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> Qwen3ForCausalLM:
    """For the words of `tokenizer`. Its initializer is as large as its width is small."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.1,
    )
    return Qwen3ForCausalLM(config).eval()
