"""An OWLv2 of the real class with random weights, and its processor."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    PreTrainedTokenizerFast,
)

from pipelines.pretrain.vlm_model import build_tokenizer

END = "<|end|>"


def save_tiny_owlv2(folder: Path) -> Path:
    """Writes an OWLv2 of 7 thousand parameters with its processor: 32 x 32 pixels are 16 patches, and 16 boxes."""
    torch.manual_seed(0)
    words = build_tokenizer().backend_tokenizer
    words.add_special_tokens([END])  # the highest id: as in CLIP, the text encoder reads a text there
    end = words.token_to_id(END)
    words.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<|endoftext|>", model_max_length=16)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config={
            **sizes,
            "vocab_size": end + 1,
            "max_position_embeddings": 16,
            "bos_token_id": 0,
            "eos_token_id": end,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = Owlv2ForObjectDetection(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(
                parameter, std=0.4
            )  # with smaller weights all boxes are similar and fit the same name
    model.save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder
