"""SpatialScore: Qwen2.5-VL with LoRA, read at the `<reward>` token by an MLP that gives (mu, log sigma).

Axes: B images, R rows (an image under a prompt), L tokens, D hidden width.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from actors.spatialscore.card import CARD_FILE, NO_TRAINING_INFO, TrainingInfo, model_card
from actors.spatialscore.processor import ScoreBatch, ScoreProcessor
from actors.spatialscore.prompt import PromptTemplate, add_reward_token

CONFIG_FILE = "spatialscore.json"
ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
BACKBONE_FOLDER = "backbone"


@dataclass(frozen=True)
class SpatialScoreConfig:
    """What a SpatialScore is built from; saved beside its weights."""

    model: str  # directory in transformers format or hub id of a Qwen2.5-VL
    pixels: int
    instruction: str = "{prompt}"
    dtype: str = "float32"
    attention: str = "sdpa"
    lora_rank: int = 32
    lora_alpha: int = 64
    lora_dropout: float = 0.0
    lora_targets: str = r"language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    head_width: int = 96
    log_sigma_min: float = -5.0
    log_sigma_max: float = 3.0
    merged: bool = False  # the backbone holds the LoRA: it scores, and cannot be trained on


class ScoreHead(nn.Module):
    """Hidden state of `<reward>` -> (mu, sigma), in float32 whatever the backbone's dtype."""

    def __init__(self, hidden: int, width: int, log_sigma_min: float, log_sigma_max: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden, width), nn.SiLU(), nn.Linear(width, 2))
        self._bounds = (log_sigma_min, log_sigma_max)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [R, D] -> mu [R], sigma [R]; log sigma is clamped to its bounds."""
        with torch.autocast(hidden.device.type, enabled=False):
            mu, log_sigma = self.layers(hidden.float()).unbind(-1)
        return mu, log_sigma.clamp(*self._bounds).exp()


class SpatialScore(nn.Module):
    """The trainable reward model. Trainable: LoRA, the head, and the embedding row of `<reward>`; nothing else."""

    def __init__(self, config: SpatialScoreConfig, backbone: PeftModel | Qwen2_5_VLModel,
                 tokenizer: PreTrainedTokenizerBase, image_processor: Qwen2VLImageProcessorPil) -> None:  # fmt: skip
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.tokenizer = tokenizer
        template = PromptTemplate(tokenizer, config.instruction)
        pad_id = cast(int, tokenizer.pad_token_id)
        self.processor = ScoreProcessor(image_processor, template, pad_id)
        self.reward_id = template.reward_id
        text = self.vlm.config.get_text_config()
        self.head = ScoreHead(text.hidden_size, config.head_width, config.log_sigma_min, config.log_sigma_max)

    @property
    def vlm(self) -> Qwen2_5_VLModel:
        """Qwen2.5-VL itself, whose layers hold the LoRA."""
        backbone = self.backbone
        return cast(Qwen2_5_VLModel, backbone.get_base_model() if isinstance(backbone, PeftModel) else backbone)

    def merge(self) -> SpatialScore:
        """Folds LoRA and `<reward>` row into the backbone for good, and returns itself: it scores the same, up to the
        rounding of the backbone's dtype, and can no longer be trained."""
        if isinstance(self.backbone, PeftModel):
            self.backbone = cast(Qwen2_5_VLModel, cast(Any, self.backbone).merge_and_unload())
            self.config = replace(self.config, merged=True)
        return self

    def forward(self, batch: ScoreBatch) -> tuple[Tensor, Tensor]:
        """(mu [R], sigma [R]). Raises ValueError unless every row holds `<reward>` exactly once."""
        at_reward = batch.input_ids == self.reward_id  # [R, L]
        counts = at_reward.sum(dim=1)
        if not bool((counts == 1).all()):
            raise ValueError(f"every row must hold <reward> exactly once, got {counts.tolist()}")
        return self.head(self.hidden_states(batch)[at_reward])

    def hidden_states(self, batch: ScoreBatch) -> Tensor:
        """The language model's last hidden states [R, L, D], image tokens at their 2-D rotary positions."""
        backbone = self.vlm
        made = backbone.get_image_features(batch.pixel_values, cast(torch.LongTensor, batch.image_grid_thw))
        features = cast(tuple[Tensor, ...], cast(BaseModelOutputWithPooling, made).pooler_output)  # B of [tokens, D]
        embeddings = backbone.get_input_embeddings()(batch.input_ids)
        in_rows = torch.cat([features[i] for i in batch.image_index.tolist()])
        at_image = (batch.input_ids == self.processor.template.image_id).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(at_image, in_rows.to(embeddings.dtype))
        return backbone.language_model(
            inputs_embeds=embeddings, attention_mask=batch.attention_mask, position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state  # fmt: skip

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, of those that are trained."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def save_pretrained(
        self, path: Path | str, *, include_backbone: bool = False, facts: TrainingInfo = NO_TRAINING_INFO
    ) -> None:
        """Writes adapter, head, tokenizer, image processor, settings and a model card; with the frozen backbone where
        asked. Without it the directory refers to `config.model`, as PEFT adapters do. A merged model writes its own
        backbone and no adapter. `facts`: what the card tells of the training.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        source = BACKBONE_FOLDER if include_backbone or self.config.merged else self.config.model
        if isinstance(self.backbone, PeftModel):
            self.backbone.peft_config["default"].base_model_name_or_path = source  # not a path of this machine
            self.backbone.save_pretrained(str(path), save_embedding_layers=False)
        else:
            self._save_backbone(path / BACKBONE_FOLDER)
        save_file({name: value.contiguous() for name, value in self.head.state_dict().items()}, path / HEAD_FILE)
        self.tokenizer.save_pretrained(path)
        self.processor.image_processor.save_pretrained(path)
        if include_backbone and not self.config.merged:
            _copy_backbone(self.config, path / BACKBONE_FOLDER)
        (path / CONFIG_FILE).write_text(json.dumps({**asdict(self.config), "model": source}, indent=2) + "\n")
        (path / CARD_FILE).write_text(model_card(self.config, facts))

    def _save_backbone(self, path: Path) -> None:
        self.vlm.save_pretrained(path)
        self.tokenizer.save_pretrained(path)
        self.processor.image_processor.save_pretrained(path)


def build(config: SpatialScoreConfig, *, gradient_checkpointing: bool = False) -> SpatialScore:
    """A SpatialScore with fresh LoRA and head on the pretrained Qwen2.5-VL that `config.model` names."""
    backbone, tokenizer, processor = _load_backbone(config)
    reward_id = add_reward_token(tokenizer)
    rows = cast(nn.Embedding, backbone.get_input_embeddings()).num_embeddings
    if reward_id >= rows:
        raise ValueError(
            f"<reward> gets id {reward_id}, but {config.model} has only {rows} embedding rows: "
            "save it after resize_token_embeddings(rows + 1, pad_to_multiple_of=64)"
        )
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
        target_modules=rf".*{config.lora_targets}", trainable_token_indices={"embed_tokens": [reward_id]},
    )  # fmt: skip
    if gradient_checkpointing:
        backbone.gradient_checkpointing_enable({"use_reentrant": False})
    return SpatialScore(config, cast(PeftModel, get_peft_model(backbone, lora)), tokenizer, processor)


def load(path: Path | str, *, device: str = "cpu", trainable: bool = False) -> SpatialScore:
    """The SpatialScore that `save_pretrained` wrote to `path`, on `device`.

    Raises FileNotFoundError where `path` is none, ValueError where the adapter file lacks weights or holds others, or
    where a merged one is to be trained.
    """
    path = Path(path)
    if not (path / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{path} is no SpatialScore directory: it has no {CONFIG_FILE}")
    config = SpatialScoreConfig(**json.loads((path / CONFIG_FILE).read_text()))
    if config.model == BACKBONE_FOLDER:
        config = replace(config, model=str(path / BACKBONE_FOLDER))
    backbone, _, _ = _load_backbone(config)
    tokenizer = AutoTokenizer.from_pretrained(path)
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(path)
    if config.merged and trainable:
        raise ValueError(f"the LoRA of {path} is merged into its backbone: train on the directory it was made from")
    if not config.merged:
        backbone = PeftModel.from_pretrained(backbone, str(path), is_trainable=trainable)
        _require_whole_adapter(backbone, path)
    model = SpatialScore(config, backbone, tokenizer, image_processor)
    model.head.load_state_dict(load_file(path / HEAD_FILE))
    return model.to(device).train(trainable)


def _load_backbone(
    config: SpatialScoreConfig,
) -> tuple[Qwen2_5_VLModel, PreTrainedTokenizerBase, Qwen2VLImageProcessorPil]:
    """Qwen2.5-VL without its output layer, which a score does not need, and which a merged directory does not hold."""
    kind = Qwen2_5_VLModel if config.merged else Qwen2_5_VLForConditionalGeneration
    found = kind.from_pretrained(config.model, dtype=getattr(torch, config.dtype), attn_implementation=config.attention)
    size = {"shortest_edge": config.pixels, "longest_edge": config.pixels}
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(config.model, size=size)
    backbone = found if isinstance(found, Qwen2_5_VLModel) else found.model
    return backbone, AutoTokenizer.from_pretrained(config.model), image_processor


def _require_whole_adapter(peft: PeftModel, path: Path) -> None:
    """PEFT only warns where adapter weights are missing, and would then score with untrained ones."""
    wanted = set(get_peft_model_state_dict(peft, save_embedding_layers=False))
    found = set(load_file(path / ADAPTER_FILE))
    if wanted != found:
        raise ValueError(
            f"{path / ADAPTER_FILE} lacks {sorted(wanted - found)[:3]} and holds unknown {sorted(found - wanted)[:3]}: "
            "it was written for another model or other LoRA targets"
        )


def _copy_backbone(config: SpatialScoreConfig, out: Path) -> None:
    full = Qwen2_5_VLForConditionalGeneration.from_pretrained(config.model, dtype=getattr(torch, config.dtype))
    full.save_pretrained(out)
    AutoTokenizer.from_pretrained(config.model).save_pretrained(out)
    Qwen2VLImageProcessorPil.from_pretrained(config.model).save_pretrained(out)
