"""The untrained tiny Qwen2.5-VL of the scenes world: the classes of transformers, 0.5 M parameters."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pipelines.pretrain.vqa_questions import APART, NUMBERS, SQUARES
from pipelines.scenes.grammar import COLORS, RELATIONS, SHAPES
from pipelines.scenes.render import GRID, SIZE

PATCH, MERGE = 8, 2
VOCABULARY = 128  # rows of the embedding; those after the words are spare, for added tokens such as <reward>
SPECIAL = (
    "<|endoftext|>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WORDS = (
    "user", "assistant", "system", "a", "an", "the", "is", "are", "and", "that", "there", "where", "from", "what",
    "how", "many", "in", "shape", "list", "object", "objects", "column", "row", "yes", "no", ",", ".", "?",
    APART, *NUMBERS, *(str(n) for n in range(1, GRID + 1)), *COLORS, *SHAPES, *(f"{shape}s" for shape in SHAPES),
    *dict.fromkeys(word for relation in RELATIONS for word in relation.split()), *SQUARES.values(), "compare",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a word-level tokenizer with Qwen's special tokens and a chat template of Qwen's form."""
    ids = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    base = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    base.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    base.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    base.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL[2:]),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Returns Qwen2-VL's image processor for 64 x 64 pixels: 8 x 8 patches, 4 x 4 image tokens."""
    size = {"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE}
    return Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2, size=size)


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Returns the untrained network. Its small width needs a large initializer, its small grid a small rope_theta."""
    vocabulary = tokenizer.get_vocab()
    token = {name: vocabulary[name] for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "max_position_embeddings": 512,
            "initializer_range": 0.1,
            "bos_token_id": token["<|endoftext|>"],
            "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"],
            "use_cache": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1] * 16},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": SIZE,
            "out_hidden_size": 96,
            "fullatt_block_indexes": [0],
            "initializer_range": 0.1,
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def save(model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes model, tokenizer and image processor as one transformers directory."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    build_image_processor().save_pretrained(out)
