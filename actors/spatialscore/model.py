"""SpatialScore: Qwen2.5-VL with LoRA, and an MLP that maps the hidden state of `<reward>` to (mu, log sigma).

Axes: B images, R rows (an image under a prompt), L tokens, D hidden width.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from actors.dtypes import DTYPES
from actors.spatialscore.card import CARD_FILE, NO_TRAINING_INFO, TrainingInfo, model_card
from actors.spatialscore.config import (
    BACKBONE_FOLDER,
    CONFIG_FILE,
    HEAD_FILE,
    SpatialScoreConfig,
)
from actors.spatialscore.processor import ScoreBatch, ScoreProcessor
from actors.spatialscore.prompt import PromptTemplate


class ScoreHead(nn.Module):
    """Maps the hidden state of `<reward>` to (mu, sigma). Computes in float32 for every dtype of the backbone."""

    def __init__(self, hidden: int, width: int, log_sigma_min: float, log_sigma_max: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden, width), nn.SiLU(), nn.Linear(width, 2))
        self._bounds = (log_sigma_min, log_sigma_max)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mu [R] and sigma [R] of the hidden states `hidden` [R, D]. log sigma is clamped to its bounds."""
        with torch.autocast(hidden.device.type, enabled=False):
            mu, log_sigma = self.layers(hidden.float()).unbind(-1)
        return mu, log_sigma.clamp(*self._bounds).exp()


class SpatialScore(nn.Module):
    """The reward model. Only the LoRA, the head and the embedding row of `<reward>` are trainable."""

    def __init__(
        self,
        config: SpatialScoreConfig,
        backbone: PeftModel | Qwen2_5_VLModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Qwen2VLImageProcessorPil,
    ) -> None:
        """Raises ValueError unless the image processor resizes every image to about `config.pixels` pixels."""
        super().__init__()
        _require_bounds(image_processor, config.pixels)
        self.config = config
        self.backbone = backbone
        self.tokenizer = tokenizer
        template = PromptTemplate(tokenizer, config.instruction)
        self.processor = ScoreProcessor(image_processor, template, cast(int, tokenizer.pad_token_id))
        self.reward_id = template.reward_id
        text = self.vlm.config.get_text_config()
        if DTYPES[config.dtype] == torch.bfloat16:
            _keep_inputs_of_lora(backbone)
        self.head = ScoreHead(text.hidden_size, config.head_width, config.log_sigma_min, config.log_sigma_max)

    @property
    def vlm(self) -> Qwen2_5_VLModel:
        """The Qwen2.5-VL, whose layers hold the LoRA."""
        backbone = self.backbone
        return cast(Qwen2_5_VLModel, backbone.get_base_model() if isinstance(backbone, PeftModel) else backbone)

    def merge(self) -> SpatialScore:
        """Merges the LoRA and the `<reward>` row into the backbone, and returns this model.

        Scores stay the same up to the rounding of the backbone's dtype. The model can no longer be trained.
        """
        if isinstance(self.backbone, PeftModel):
            self.backbone = cast(Qwen2_5_VLModel, cast(Any, self.backbone).merge_and_unload())
            self.config = replace(self.config, merged=True)
        return self

    def forward(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """Returns (mu [R], sigma [R]). Raises ValueError unless every row holds `<reward>` exactly once."""
        at_reward = batch.input_ids == self.reward_id  # [R, L]
        counts = at_reward.sum(dim=1)
        if not bool((counts == 1).all()):
            raise ValueError(f"every row must hold <reward> exactly once, got {counts.tolist()}")
        return self.head(self.hidden_states(batch)[at_reward])

    def hidden_states(self, batch: ScoreBatch) -> Tensor:
        """The language model's last hidden states [R, L, D]. Image tokens have their 2-D rotary positions."""
        backbone = self.vlm
        output = backbone.get_image_features(batch.pixel_values, cast(torch.LongTensor, batch.image_grid_thw))
        features = cast(tuple[Tensor, ...], cast(BaseModelOutputWithPooling, output).pooler_output)  # B of [tokens, D]
        embeddings = backbone.get_input_embeddings()(batch.input_ids)
        in_rows = torch.cat([features[i] for i in batch.image_index.tolist()])
        at_image = (batch.input_ids == self.processor.template.image_id).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(at_image, in_rows.to(embeddings.dtype))
        # Without autocast the LoRA, whose weights are float32, would multiply in float32: at a fraction of the speed.
        low = DTYPES[self.config.dtype] == torch.bfloat16
        with torch.autocast(embeddings.device.type, torch.bfloat16, enabled=low, cache_enabled=False):
            return backbone.language_model(
                inputs_embeds=embeddings,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            ).last_hidden_state

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def save_pretrained(
        self, path: Path | str, *, include_backbone: bool = False, training: TrainingInfo = NO_TRAINING_INFO
    ) -> None:
        """Writes adapter, head, tokenizer, image processor, config and model card to the folder `path`.

        `include_backbone`: also write the frozen backbone. Without it the directory refers to `config.model`, as PEFT
        adapters do. A merged model always writes its backbone and no adapter. `training` is shown in the model card.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        source = BACKBONE_FOLDER if include_backbone or self.config.merged else self.config.model
        if isinstance(self.backbone, PeftModel):
            self.backbone.peft_config["default"].base_model_name_or_path = source  # not a path of this machine
            self.backbone.save_pretrained(str(path), save_embedding_layers=False)
        else:
            self._save_merged_backbone(path / BACKBONE_FOLDER)
        save_file({name: value.contiguous() for name, value in self.head.state_dict().items()}, path / HEAD_FILE)
        self.tokenizer.save_pretrained(path)
        self.processor.image_processor.save_pretrained(path)
        if include_backbone and not self.config.merged:
            _copy_frozen_backbone(self.config, path / BACKBONE_FOLDER)
        (path / CONFIG_FILE).write_text(json.dumps({**asdict(self.config), "model": source}, indent=2) + "\n")
        (path / CARD_FILE).write_text(model_card(self.config, training, len(self.tokenizer)))

    def _save_merged_backbone(self, path: Path) -> None:
        self.vlm.save_pretrained(path)
        self.tokenizer.save_pretrained(path)
        self.processor.image_processor.save_pretrained(path)


def _keep_inputs_of_lora(backbone: nn.Module) -> None:
    """Lets LoRA layers take their inputs in bfloat16. PEFT casts them to the dtype of the LoRA's weights otherwise."""
    for module in backbone.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def _require_bounds(image_processor: Qwen2VLImageProcessorPil, pixels: int) -> None:
    """Raises ValueError for other bounds: images would cost, and score, something else than the settings say."""
    size = image_processor.size
    bounds = (size["shortest_edge"], size["longest_edge"])
    if bounds != (pixels, pixels):
        raise ValueError(
            f"the image processor must resize images to spatialscore.pixels={pixels}, got bounds {bounds}: "
            "set min_pixels and max_pixels in its preprocessor_config.json to this number, or train the model again"
        )


def _copy_frozen_backbone(config: SpatialScoreConfig, path: Path) -> None:
    """Writes the pretrained backbone that `config.model` names to the folder `path`."""
    full = Qwen2_5_VLForConditionalGeneration.from_pretrained(config.model, dtype=DTYPES[config.dtype])
    full.save_pretrained(path)
    AutoTokenizer.from_pretrained(config.model, trust_remote_code=False).save_pretrained(path)
    Qwen2VLImageProcessorPil.from_pretrained(config.model).save_pretrained(path)
