"""HPSv3: Qwen2-VL-7B, and an MLP that maps the hidden state of `<|Reward|>` to (mu, log sigma). Its score is mu.

Two details follow its training: the token is near the end and not the last one, and image tokens have 1-D positions,
because its forward pass gives the language model embeddings without ids. The prompt template is read from the source of
the published package.
"""

from __future__ import annotations

import ast
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLImageProcessorPil, Qwen2VLModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from actors.rewards.batched import BatchedReward
from actors.rewards.scorers import SCORERS, ScorerContext, commit_of, download

BASE = SCORERS["hpsv3"].beside[0]
FILE = SCORERS["hpsv3"].file
TOKEN = "<|Reward|>"
PIXELS = 256 * 28 * 28
TEMPLATE_FILE = "hpsv3/dataset/data_collator_qwen.py"  # of the package hpsv3
_START = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
_END = "<|im_end|>\n<|im_start|>assistant\n"


class Hpsv3(nn.Module):
    """The backbone without its output layer, and the head."""

    def __init__(self, config: Qwen2VLConfig, widths: tuple[int, int]) -> None:
        super().__init__()
        hidden = config.get_text_config().hidden_size
        self.backbone = Qwen2VLModel(config)
        self.rm_head = nn.Sequential(
            nn.Linear(hidden, widths[0]),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(widths[0], widths[1]),
            nn.ReLU(),
            nn.Linear(widths[1], 2),
        )

    @classmethod
    def from_state(cls, config: Qwen2VLConfig, state: Mapping[str, Tensor]) -> Hpsv3:
        """Builds the model from published weights, with the old or the new names of transformers.

        Raises RuntimeError if weights are missing or have another shape.
        """
        named = {new: value for name, value in state.items() if (new := _renamed(name))}
        text = config.get_text_config()
        text.vocab_size = len(named["backbone.language_model.embed_tokens.weight"])  # HPSv3 has no padding rows
        model = cls(config, (len(named["rm_head.0.bias"]), len(named["rm_head.3.bias"])))
        cast(nn.Module, model.backbone).to(named["backbone.language_model.embed_tokens.weight"].dtype)
        model.load_state_dict(named)
        return model

    def forward(self, ids: Tensor, mask: Tensor, pixels: Tensor, grid: Tensor, image_id: int, reward_id: int) -> Tensor:
        """Returns mu of each row  # [B]. ids, mask [B, L], padded on the right."""
        output = self.backbone.get_image_features(pixels, cast(torch.LongTensor, grid))
        features = torch.cat(cast(tuple[Tensor, ...], cast(BaseModelOutputWithPooling, output).pooler_output))
        embeddings = self.backbone.get_input_embeddings()(ids)
        embeddings = embeddings.masked_scatter((ids == image_id).unsqueeze(-1), features.to(embeddings.dtype))
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
        hidden = self.backbone.language_model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return self.rm_head(hidden[ids == reward_id].float())[:, 0]


class Hpsv3Scorer(BatchedReward):
    """Scores images under prompts with HPSv3. Prompts are not truncated."""

    def __init__(
        self, model: Hpsv3, base: str, template: str, device: str, batch_images: int = 16, pixels: int = PIXELS
    ) -> None:
        """`base`: directory or hub id of tokenizer and image processor. `template`: the prompt, with {text_prompt}."""
        self._model, self._device, self.batch_images = model.to(device).eval(), device, batch_images
        self._model.rm_head.float()
        commit = commit_of(base)
        self._tokenizer = AutoTokenizer.from_pretrained(base, revision=commit, trust_remote_code=False)
        self._tokenizer.add_special_tokens({"additional_special_tokens": [TOKEN]})
        # `min_pixels` and `max_pixels`, because those of the published file would override `size`.
        bounds: dict[str, Any] = {"min_pixels": pixels, "max_pixels": pixels}
        self._images = Qwen2VLImageProcessorPil.from_pretrained(base, revision=commit, **bounds)
        self._template = template
        self._image_id, self._reward_id = self._tokenizer.convert_tokens_to_ids(["<|image_pad|>", TOKEN])

    @torch.inference_mode()
    def score_batch(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """See BatchedReward. Special tokens in a prompt are split, so that they are plain text."""
        patches = self._images([Image.fromarray(image) for image in images], return_tensors="pt").to(self._device)
        tokens = patches["image_grid_thw"].prod(1) // self._images.merge_size**2
        texts = [
            f"{_START}{'<|image_pad|>' * int(count)}<|vision_end|>"
            f"{self._template.format(text_prompt=prompt.replace('<|', '< |'))}{_END}"
            for prompt, count in zip(prompts, tokens, strict=True)
        ]
        rows = self._tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").to(self._device)
        mu = self._model(
            rows["input_ids"],
            rows["attention_mask"],
            patches["pixel_values"],
            patches["image_grid_thw"],
            self._image_id,
            self._reward_id,
        )
        return mu.float().cpu().numpy()


def open_hpsv3(context: ScorerContext) -> Hpsv3Scorer:
    """Opens HPSv3 from a directory that also holds its base's configuration, or from the hub."""
    local = Path(context.model).is_dir()
    base = context.model if local else BASE
    file = str(Path(context.model) / FILE) if local else download(context, FILE)
    model = Hpsv3.from_state(Qwen2VLConfig.from_pretrained(base, revision=commit_of(base)), load_file(file))
    return Hpsv3Scorer(model, base, published_template(), context.device, context.batch_images)


def published_template() -> str:
    """The prompt template, read from the source of the package hpsv3 without running it.

    Raises FileNotFoundError if the package is not installed.
    """
    try:
        files = importlib.metadata.files("hpsv3") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            "the package hpsv3 is not installed: set baselines.isolated=true, or rewards.hpsv3.packages=pip"
        ) from error
    source = next(file for file in files if str(file) == TEMPLATE_FILE).read_text()
    texts = {
        statement.targets[0].id: statement.value.value
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and isinstance(statement.value, ast.Constant)
    }
    return str(texts["INSTRUCTION"]) + str(texts["prompt_with_special_token"])


def _renamed(name: str) -> str:
    """The name in `Hpsv3` of a published weight; empty for the output layer, which scores do not need."""
    if name.startswith("rm_head."):
        return name
    name = name.removeprefix("model.")
    if name.startswith(("visual.", "language_model.")):
        return f"backbone.{name}"
    return "" if name.startswith("lm_head.") else f"backbone.language_model.{name}"
