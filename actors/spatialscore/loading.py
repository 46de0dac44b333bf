"""How a SpatialScore is made: fresh on a pretrained backbone, or from a saved directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from actors.dtypes import DTYPES
from actors.json_files import read_record
from actors.spatialscore.config import (
    ADAPTER_FILE,
    BACKBONE_FOLDER,
    CONFIG_FILE,
    HEAD_FILE,
    SpatialScoreConfig,
)
from actors.spatialscore.model import SpatialScore
from actors.spatialscore.prompt import add_reward_token
from actors.spatialscore.vision_attention import use_equal_windows


def build(config: SpatialScoreConfig, *, gradient_checkpointing: bool = False) -> SpatialScore:
    """Builds a SpatialScore with a fresh LoRA and head on the pretrained Qwen2.5-VL that `config.model` names.

    Raises ValueError if the backbone has no embedding row left for `<reward>`, or for another class of image processor
    that does not take the bounds `config.pixels`.
    """
    backbone, image_processor = _load_backbone(config)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(config.model, trust_remote_code=False)
    reward_id = add_reward_token(tokenizer)
    rows = cast(nn.Embedding, backbone.get_input_embeddings()).num_embeddings
    if reward_id >= rows:
        raise ValueError(
            f"<reward> gets id {reward_id}, but {config.model} has only {rows} embedding rows: "
            "save it after resize_token_embeddings(rows + 1, pad_to_multiple_of=64)"
        )
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=rf".*{config.lora_targets}",
        trainable_token_indices={"embed_tokens": [reward_id]},
    )
    if gradient_checkpointing:
        backbone.gradient_checkpointing_enable({"use_reentrant": False})
    return SpatialScore(config, cast(PeftModel, get_peft_model(backbone, lora)), tokenizer, image_processor)


def read_config(path: Path | str) -> SpatialScoreConfig:
    """The configuration in a SpatialScore directory.

    Raises FileNotFoundError if `path` is none, and JsonError, a ValueError, if the configuration is damaged.
    """
    file = Path(path) / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a SpatialScore directory: it has no {CONFIG_FILE}")
    return read_record(str(file), SpatialScoreConfig)


def load(path: Path | str, *, device: str = "cpu", trainable: bool = False) -> SpatialScore:
    """Loads the SpatialScore that `save_pretrained` wrote to `path`.

    Raises FileNotFoundError if `path` is not a SpatialScore directory. Raises ValueError if the adapter file lacks
    weights or holds unknown ones, if a merged model is to be trained, or if the saved image processor has other bounds
    than `config.pixels`.
    """
    path = Path(path)
    config = read_config(path)
    if config.model == BACKBONE_FOLDER:
        config = replace(config, model=str(path / BACKBONE_FOLDER))
    if config.merged and trainable:
        raise ValueError(f"the LoRA of {path} is merged into its backbone: train the directory it was merged from")
    backbone, _ = _load_backbone(config)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(path)
    if not config.merged:
        backbone = PeftModel.from_pretrained(backbone, str(path), is_trainable=trainable)
        _require_complete_adapter(backbone, path)
    model = SpatialScore(config, backbone, tokenizer, image_processor)
    model.head.load_state_dict(load_file(path / HEAD_FILE))
    return model.to(device).train(trainable)


def _load_backbone(config: SpatialScoreConfig) -> tuple[Qwen2_5_VLModel, Qwen2VLImageProcessorPil]:
    """Qwen2.5-VL without its output layer, which scores do not need and a merged directory does not hold.

    In the dtype of its files, transformers maps them: all processes of a node share these pages until they move the
    weights to a GPU. `device_map` would save none of them.
    """
    model_class = Qwen2_5_VLModel if config.merged else Qwen2_5_VLForConditionalGeneration
    loaded = model_class.from_pretrained(config.model, dtype=DTYPES[config.dtype], attn_implementation=config.attention)
    # `min_pixels` and `max_pixels`, because those of the published preprocessor_config.json would override `size`.
    bounds: dict[str, Any] = {"min_pixels": config.pixels, "max_pixels": config.pixels}
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(config.model, **bounds)
    backbone = loaded if isinstance(loaded, Qwen2_5_VLModel) else loaded.model
    use_equal_windows(backbone.visual)
    return backbone, image_processor


def _require_complete_adapter(model: PeftModel, path: Path) -> None:
    """Raises ValueError if adapter weights are missing. PEFT only warns, and would score with untrained weights."""
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    found = set(load_file(path / ADAPTER_FILE))
    if expected != found:
        raise ValueError(
            f"{path / ADAPTER_FILE} lacks {sorted(expected - found)[:3]} and holds unknown "
            f"{sorted(found - expected)[:3]}: it was written for another model or other LoRA targets"
        )
