"""The authors' side of official_baselines.py. It runs with the packages of their time, not with ours."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch


def main(name: str, folder: str) -> None:
    """Writes scores.pt, or the weights of ImageReward."""
    with torch.no_grad():
        sides = {"hpsv3": hpsv3, "imagereward": image_reward, "imagereward-weights": image_reward_weights}
        {**sides, "vqascore": vqascore}[name](Path(folder))


def hpsv3(folder: Path) -> None:
    """`Qwen2VLRewardModelBT`, whose scores are the first of its two outputs."""
    replace_unused("matplotlib", "datasets", "pandas", "torchvision", "torch.utils.tensorboard", "peft")
    replace_unused("hpsv3.utils.training_utils")
    trl: Any = types.ModuleType("trl")
    trl.RewardTrainer = type("RewardTrainer", (), {})
    sys.modules["trl"] = trl
    without_init("hpsv3", "hpsv3.model", "hpsv3.utils")
    from hpsv3.model.qwen2vl_trainer import Qwen2VLRewardModelBT  # pyright: ignore
    from transformers import Qwen2VLConfig

    from tests.bench.official_sizes import IMAGE_ID, QWEN_TEXT, QWEN_VISION, REWARD_ID

    given = torch.load(folder / "input.pt")
    settings: dict[str, Any] = {
        **QWEN_TEXT,
        "vision_config": QWEN_VISION,
        "rope_theta": 100.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]},
        "image_token_id": IMAGE_ID,
        "pad_token_id": 0,
        "use_cache": False,
    }
    config = Qwen2VLConfig(**settings)
    model = Qwen2VLRewardModelBT(config, output_dim=2, special_token_ids=[REWARD_ID], rm_head_type="ranknet").eval()
    missing, unknown = model.load_state_dict(given["weights"], strict=False)
    assert not unknown and set(missing) <= {"lm_head.weight"}, (missing, unknown)
    logits = model(given["ids"], given["mask"], pixel_values=given["pixels"], image_grid_thw=given["grid"])["logits"]
    torch.save(logits[:, 0], folder / "scores.pt")


def image_reward(folder: Path) -> None:
    """`ImageReward.score_gard`, which works on tensors."""
    given = torch.load(folder / "input.pt")
    model = _image_reward()
    model.load_state_dict(torch.load(folder / "weights.pt"))
    torch.save(model.score_gard(given["ids"], given["mask"], given["pixels"])[:, 0], folder / "scores.pt")


def image_reward_weights(folder: Path) -> None:
    """Random weights under the authors' names."""
    torch.manual_seed(0)
    model = _image_reward()
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    torch.save(model.state_dict(), folder / "weights.pt")


def vqascore(folder: Path) -> None:
    """`CLIPT5ForConditionalGeneration`, and the last lines of `CLIPT5Model.forward`."""
    models = "t2v_metrics.models.vqascore_models"
    without_init("t2v_metrics", "t2v_metrics.models", models)
    from t2v_metrics.models.vqascore_models.clip_t5.model.language_model.clip_t5 import (  # pyright: ignore
        IMAGE_TOKEN_INDEX,
        CLIPT5Config,
        CLIPT5ForConditionalGeneration,
    )
    from t2v_metrics.models.vqascore_models.clip_t5.model.multimodal_encoder.clip_encoder import (  # pyright: ignore
        CLIPVisionTower,
    )
    from t2v_metrics.models.vqascore_models.clip_t5.model.multimodal_projector.builder import (  # pyright: ignore
        build_vision_projector,
    )
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from tests.bench.official_sizes import T5, TOWER

    given = torch.load(folder / "input.pt")
    config = CLIPT5Config(**T5, mm_projector_type="mlp2x_gelu")
    model = CLIPT5ForConditionalGeneration(config)
    model.mm_projector = build_vision_projector(config)
    missing, unknown = model.load_state_dict(given["weights"], strict=False)
    assert not unknown and set(missing) <= {"embed_tokens.weight"}, (missing, unknown)
    tower = CLIPVisionTower.__new__(CLIPVisionTower)
    torch.nn.Module.__init__(tower)
    tower.select_layer, tower.select_feature = -2, "patch"  # the defaults of its ModelArguments
    tower.vision_tower = CLIPVisionModel(CLIPVisionConfig(**TOWER))
    named = {f"vision_model.{name.removeprefix('vision_model.')}": value for name, value in given["tower"].items()}
    tower.vision_tower.load_state_dict(named)
    model.vision_tower = tower
    model.eval()
    rows = [torch.cat([row[0], torch.tensor([IMAGE_TOKEN_INDEX]), row[1]]) for row in given["rows"]]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    labels = given["answer"].repeat(len(rows), 1)
    logits = model(input_ids=ids, attention_mask=mask.bool(), labels=labels, images=given["pixels"]).logits
    losses = [torch.nn.functional.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)]
    torch.save(torch.stack(losses).neg().exp(), folder / "scores.pt")


def _image_reward() -> Any:
    """ImageReward with a small vision tower and text encoder in place of the published sizes."""
    without_init("ImageReward", "ImageReward.models", "ImageReward.models.BLIP")
    replace_unused("torchvision")
    from ImageReward.ImageReward import MLP, ImageReward  # pyright: ignore
    from ImageReward.models.BLIP.med import BertConfig, BertModel  # pyright: ignore
    from ImageReward.models.BLIP.vit import VisionTransformer  # pyright: ignore

    from tests.bench.official_sizes import BERT, PATCH, SIDE, WIDTH

    model = ImageReward.__new__(ImageReward)
    torch.nn.Module.__init__(model)
    model.device, model.mean, model.std = "cpu", 0.16717362830052426, 1.0333394966054072
    text = BertConfig(**BERT, encoder_width=WIDTH, add_cross_attention=True, hidden_act="gelu")
    model.blip = torch.nn.Module()
    model.blip.visual_encoder = VisionTransformer(
        img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=2, num_heads=2
    )
    model.blip.text_encoder = BertModel(config=text, add_pooling_layer=False)
    model.mlp = MLP(WIDTH)
    return model.eval()


class _Unused(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes modules that the authors' files import, and that the models do not use. They hold whatever is asked for."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The spec of one of these modules or of a module inside it."""
        mine = any(f"{name}.".startswith(f"{root}.") for root in self._names)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if mine else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        """A module with every attribute."""
        return MagicMock()

    def exec_module(self, module: Any) -> None:
        """Nothing is executed."""


def replace_unused(*names: str) -> None:
    """Puts modules in the place of those that the authors' files import and the models do not use."""
    sys.meta_path.insert(0, _Unused(names))


def without_init(*names: str) -> None:
    """Makes packages whose own __init__ would import far more than a model."""
    for name in names:
        if name in sys.modules:
            continue
        package = types.ModuleType(name)
        package.__path__ = [str(Path(entry, *name.split("."))) for entry in sys.path]
        sys.modules[name] = package


if __name__ == "__main__":
    main(*sys.argv[1:3])
