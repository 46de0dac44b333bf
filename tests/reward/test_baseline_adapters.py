"""Each baseline's adapter on a tiny random model of its class."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from ray.runtime_env import RuntimeEnv
from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    BlipConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from actors.rewards import hpsv3, image_reward, unified_reward, vqascore
from actors.rewards.clip import (
    HPSV2_FILE,
    PROCESSOR,
    HpsScorer,
    from_open_clip,
    open_clip_score,
    open_hpsv2,
    open_pickscore,
)
from actors.rewards.hpsv3 import Hpsv3, Hpsv3Scorer
from actors.rewards.opening import open_reward
from actors.rewards.scorers import PINNED, SCORERS, ScorerContext, commit_of, runtime_env_of
from conf import UserError, load
from conf.baselines import KIND_OF_SCORER
from conf.rewards import SCORER_KINDS, RewardTerm
from pipelines.common.reward_sources import check_reward_sources
from pipelines.reward.baselines.comparing import ComparingJudge
from pipelines.reward.data import Pair
from pipelines.reward.predictions import ScoringJudge
from tests.support.tiny_clip import SIZES, save_tiny_clip
from tests.support.tiny_reward import save_tiny_vlm

PROMPT = "a red circle left of a blue square"
LONG = " and above a green triangle".join([PROMPT] * 4)


def _pair(images: np.ndarray, prompt: str = PROMPT) -> Pair:
    return Pair("0", prompt, None, images[0], images[1], "perturbed", 1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with tokenizer and image processor, in the format of PickScore; 16 text positions."""
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


def test_clip_scores_do_not_depend_on_the_batch_and_mark_truncated_prompts(clip: Path, images: np.ndarray) -> None:
    pairs = [_pair(images), _pair(images[2:], LONG)]
    predictions = ScoringJudge(open_pickscore(ScorerContext(str(clip), "cpu", 4))).judge(pairs)
    alone = ScoringJudge(open_pickscore(ScorerContext(str(clip), "cpu", 1))).judge(pairs)
    np.testing.assert_allclose(predictions.margin, alone.margin, atol=1e-4)
    assert np.abs(predictions.margin).min() > 1e-4
    assert predictions.truncated.tolist() == [False, True]
    longer = ScoringJudge(open_pickscore(ScorerContext(str(clip), "cpu", 4))).judge(
        [_pair(images[2:], LONG + " and so on")]
    )
    assert longer.margin[0] == pytest.approx(predictions.margin[1], abs=1e-5)  # the truncated part is not read


def test_hpsv2_translates_the_weight_names_of_open_clip(clip: Path, images: np.ndarray, tmp_path: Path) -> None:
    model = CLIPModel.from_pretrained(clip)
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({"state_dict": _as_open_clip(model)}, tmp_path / HPSV2_FILE)
    predictions = ScoringJudge(open_hpsv2(ScorerContext(str(tmp_path), "cpu", 4))).judge([_pair(images)])
    expected = ScoringJudge(HpsScorer(model, str(clip), "cpu", scale=1.0)).judge([_pair(images)])
    np.testing.assert_allclose(predictions.margin, expected.margin, atol=1e-5)
    torch.save({"state_dict": {**_as_open_clip(model), "extra": torch.ones(1)}}, tmp_path / HPSV2_FILE)
    with pytest.raises(ValueError, match="unknown"):
        open_hpsv2(ScorerContext(str(tmp_path), "cpu", 4))


def test_hpsv2_sees_the_whole_of_an_image_that_is_not_square(clip: Path, tmp_path: Path) -> None:
    """By the formula of HPSv2's `ResizeMaxSize`: the longer side becomes the model's side, the rest is black."""
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({"state_dict": _as_open_clip(CLIPModel.from_pretrained(clip))}, tmp_path / HPSV2_FILE)
    wide = np.random.default_rng(1).integers(0, 256, (16, 32, 3), dtype=np.uint8)  # the model's side is 32
    by_hand = np.zeros((32, 32, 3), np.uint8)
    by_hand[8:24] = wide
    edge = wide.copy()
    edge[:, :6] = 255 - edge[:, :6]  # at the far left, which a crop to 16 x 16 loses
    baseline = ScoringJudge(open_hpsv2(ScorerContext(str(tmp_path), "cpu", 4)))
    assert baseline.judge([_pair(np.stack([by_hand, by_hand]))]).margin[0] == pytest.approx(0, abs=1e-6)
    same = Pair("0", PROMPT, None, wide, by_hand, "perturbed", 1)
    assert baseline.judge([same]).margin[0] == pytest.approx(0, abs=1e-5)
    assert abs(baseline.judge([_pair(np.stack([wide, edge]))]).margin[0]) > 1e-5
    cropped = ScoringJudge(open_pickscore(ScorerContext(str(clip), "cpu", 4)))
    assert cropped.judge([_pair(np.stack([wide, edge]))]).margin[0] == pytest.approx(0, abs=1e-6)


def _as_open_clip(model: CLIPModel) -> dict[str, torch.Tensor]:
    """The inverse of `from_open_clip`, tensor by tensor, with OpenCLIP's names."""
    state, renamed = model.state_dict(), {"attn_mask": torch.zeros(16, 16), "logit_scale": model.logit_scale.data}
    for ours, published, tower in (("vision_model", "visual.", "visual"), ("text_model", "", "text")):
        for layer in range(2):
            source, target = f"{ours}.encoder.layers.{layer}", f"{published}transformer.resblocks.{layer}"
            for kind in ("weight", "bias"):
                parts = [state[f"{source}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                renamed[f"{target}.attn.in_proj_{kind}"] = torch.cat(parts)
                renamed[f"{target}.attn.out_proj.{kind}"] = state[f"{source}.self_attn.out_proj.{kind}"]
                renamed[f"{target}.ln_1.{kind}"] = state[f"{source}.layer_norm1.{kind}"]
                renamed[f"{target}.ln_2.{kind}"] = state[f"{source}.layer_norm2.{kind}"]
                renamed[f"{target}.mlp.c_fc.{kind}"] = state[f"{source}.mlp.fc1.{kind}"]
                renamed[f"{target}.mlp.c_proj.{kind}"] = state[f"{source}.mlp.fc2.{kind}"]
        renamed["visual.proj" if tower == "visual" else "text_projection"] = state[f"{tower}_projection.weight"].T
    for kind in ("weight", "bias"):
        renamed[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
        renamed[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        renamed[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
    renamed["token_embedding.weight"] = state["text_model.embeddings.token_embedding.weight"]
    renamed["positional_embedding"] = state["text_model.embeddings.position_embedding.weight"]
    renamed["visual.conv1.weight"] = state["vision_model.embeddings.patch_embedding.weight"]
    renamed["visual.class_embedding"] = state["vision_model.embeddings.class_embedding"]
    renamed["visual.positional_embedding"] = state["vision_model.embeddings.position_embedding.weight"]
    assert set(from_open_clip(renamed)) == {name for name in state if not name.endswith("position_ids")}
    return renamed


def _tiny_qwen2_vl(folder: Path) -> Qwen2VLConfig:
    """Configuration, tokenizer and image processor of a small Qwen2-VL."""
    save_tiny_vlm(folder)  # its tokenizer and image processor fit Qwen2-VL
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 128,
            "initializer_range": 0.3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 2, 2]},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 48,
            "num_heads": 2,
            "patch_size": 8,
            "mlp_ratio": 2,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=6,
        video_token_id=7,
        vision_start_token_id=4,
        vision_end_token_id=5,
    )
    config.save_pretrained(folder)
    return config


def test_hpsv3_loads_published_weight_names_and_ignores_padding(images: np.ndarray, tmp_path: Path) -> None:
    config = _tiny_qwen2_vl(tmp_path)
    torch.manual_seed(0)
    source = Hpsv3(config, (24, 8))
    with torch.no_grad():
        values = torch.tensor([2.0, 50.0])  # so that mu and log sigma differ
        cast(torch.nn.Linear, source.rm_head[5]).bias.copy_(values)
    named = {
        name.replace("backbone.language_model.", "model.").replace("backbone.", ""): value
        for name, value in source.state_dict().items()
    }
    assert {name.split(".")[0] for name in named} == {"model", "visual", "rm_head"}
    save_file({**named, "lm_head.weight": torch.zeros(128, 48)}, tmp_path / hpsv3.FILE)
    model = Hpsv3.from_state(config, {**named, "lm_head.weight": torch.zeros(128, 48)})
    template = "Textual prompt - {text_prompt}\noverall <|Reward|>\n\nEND\n"
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"min_pixels": 3136, "max_pixels": 12845056}))
    scorer = Hpsv3Scorer(model, str(tmp_path), template, "cpu", pixels=4096)
    assert dict(cast(Any, scorer)._images.size) == {"shortest_edge": 4096, "longest_edge": 4096}, (
        "not the published file's bounds"
    )
    prompts = [PROMPT, "<|Reward|> a red circle", LONG, PROMPT]
    scores = scorer.score(images, prompts)
    alone = [scorer.score(images[i : i + 1], prompts[i : i + 1]).mu[0] for i in range(4)]
    np.testing.assert_allclose(scores.mu, alone, atol=1e-4)
    assert np.abs(scores.mu).max() < 30
    assert not scorer.truncated(prompts).any()
    mirrored = images[:1, :, ::-1]
    assert scorer.score(mirrored, [PROMPT]).mu[0] != pytest.approx(scores.mu[0], abs=1e-4)
    with pytest.raises(RuntimeError, match="Missing key"):
        Hpsv3.from_state(config, {name: value for name, value in named.items() if "layers.1" not in name})


def test_unified_reward_counts_clear_answers_only(images: np.ndarray, tmp_path: Path) -> None:
    save_tiny_vlm(tmp_path)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    baseline = unified_reward.UnifiedReward(model, str(tmp_path), "cpu", pairs=2, new_tokens=4)
    predictions = ComparingJudge(baseline).judge([_pair(images), _pair(images[2:], LONG)])
    assert np.isnan(predictions.margin).all()  # random weights generate no valid answer
    assert unified_reward.parse_answer("... Image 1 is better.") == 1.0
    assert unified_reward.parse_answer("Image 2 is better.") == -1.0
    assert unified_reward.parse_answer("Both images are equally good.") == 0.0
    assert np.isnan(unified_reward.parse_answer("Image 1 is better. No, Image 2 is better."))


def test_image_reward_loads_the_published_weight_names(clip: Path, images: np.ndarray, tmp_path: Path) -> None:
    """A tiny BLIP with the names of the published file. It reads 35 tokens."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    config = BlipConfig(
        text_config={**SIZES, "vocab_size": 128, "encoder_hidden_size": 32, "max_position_embeddings": 64},
        vision_config={**SIZES, "image_size": 32, "patch_size": 8},
    )
    config.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = image_reward.ImageReward(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # freshly initialized weights hardly depend on the image
    published = {_published_name(name): value for name, value in model.state_dict().items()}
    assert {
        "blip.visual_encoder.blocks.1.attn.qkv.weight",
        "blip.visual_encoder.pos_embed",
        "mlp.layers.7.bias",
        "blip.text_encoder.encoder.layer.1.crossattention.self.key.weight",
    } <= set(published)
    torch.save({**published, "blip.vision_proj.weight": torch.zeros(1)}, tmp_path / image_reward.FILE)
    long = " ".join([PROMPT] * 6)
    pairs = [_pair(images), _pair(images[2:], long)]
    predictions = ScoringJudge(image_reward.open_image_reward(ScorerContext(str(tmp_path), "cpu", 4))).judge(pairs)
    alone = ScoringJudge(image_reward.ImageRewardScorer(model, str(tmp_path), "cpu", 1)).judge(pairs)
    np.testing.assert_allclose(predictions.margin, alone.margin, rtol=1e-3, atol=1e-4)
    assert np.abs(predictions.margin).min() > 1e-2
    assert predictions.truncated.tolist() == [False, True]


def _published_name(name: str) -> str:
    """The name of a weight in the published file."""
    if name.startswith("mlp."):
        _, number, kind = name.split(".")
        return f"mlp.layers.{(0, 2, 4, 6, 7)[int(number)]}.{kind}"
    if name.startswith("text."):
        return f"blip.text_encoder.{name.removeprefix('text.')}"
    for ours, published in (
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.position_embedding", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("post_layernorm", "norm"),
        ("encoder.layers", "blocks"),
        ("layer_norm", "norm"),
        ("self_attn.qkv", "attn.qkv"),
        ("self_attn.projection", "attn.proj"),
    ):
        name = name.replace(ours, published)
    return f"blip.visual_encoder.{name.removeprefix('vision.')}"


def test_vqascore_probabilities_do_not_depend_on_the_batch(clip: Path, images: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(clip)
    end = ("<|endoftext|>", tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <|endoftext|>", special_tokens=[end])
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer("Yes")["input_ids"][-1] == end[1], "as T5, which ends every text; the answer has several ids"
    settings: dict[str, Any] = {
        "vocab_size": 128,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 2,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
        "mm_hidden_size": 24,
    }
    config = T5Config(**settings)
    vqascore.ClipFlanT5(config).save_pretrained(tmp_path)
    tower = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    CLIPVisionModel(tower).save_pretrained(tmp_path / "tower")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "tower"
    )
    pairs = [_pair(images), _pair(images[2:, :32], LONG)]  # the images of the second pair are not square
    predictions = ScoringJudge(vqascore.open_vqascore(ScorerContext(str(tmp_path), "cpu", 4))).judge(pairs)
    alone = ScoringJudge(vqascore.open_vqascore(ScorerContext(str(tmp_path), "cpu", 2))).judge(pairs)
    np.testing.assert_allclose(predictions.margin, alone.margin, atol=1e-6)
    assert (np.abs(predictions.margin) > 1e-7).all()
    assert (np.abs(predictions.margin) < 1).all()
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="mm_projector"):
        vqascore.open_vqascore(ScorerContext(str(tmp_path), "cpu", 4))


class Preferring(unified_reward.UnifiedReward):
    """Prefers the brighter image, and always the first one of two equal ones."""

    def __init__(self) -> None:
        self.questions = 0

    def compare(self, questions: Sequence[unified_reward.Comparison]) -> list[float]:
        self.questions += len(questions)
        return [1.0 if each.first.mean() >= each.second.mean() else -1.0 for each in questions]


def test_unified_reward_scores_an_image_by_its_votes_against_the_others_of_its_prompt() -> None:
    """Equal images tie, because each is preferred when it is shown first."""
    images = np.stack([np.full((8, 8, 3), grey, np.uint8) for grey in (0, 100, 100, 200, 7)])
    model = Preferring()
    scores = model.score(images, ["a", "a", "a", "a", "alone"])
    assert scores.mu[:4].tolist() == pytest.approx([-1.0, 0.0, 0.0, 1.0]) and np.isnan(scores.mu[4])
    assert model.questions == 4 * 3


def test_clip_score_is_2_5_times_the_cosine_of_one_that_is_not_negative(clip: Path, images: np.ndarray) -> None:
    """The cosine is computed here from the towers of the model."""
    model, tokens = CLIPModel.from_pretrained(clip), PreTrainedTokenizerFast.from_pretrained(clip)
    pixels = CLIPImageProcessorPil.from_pretrained(clip)([images[0]], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        read = tokens([f"A photo depicts {PROMPT}"], return_tensors="pt")
        text = model.text_projection(model.text_model(**read).pooler_output)[0]
    cosine = float(image @ text / image.norm() / text.norm())
    scorer = open_clip_score(ScorerContext(str(clip), "cpu", 4))
    assert scorer.score(images[:1], [PROMPT]).mu[0] == pytest.approx(2.5 * max(cosine, 0), abs=1e-5)
    assert scorer.truncated([" ".join(["red"] * words) for words in (13, 14)]).tolist() == [False, True]  # 16 with ours


def test_every_baseline_and_every_kind_of_reward_model_is_the_same_class() -> None:
    assert set(SCORERS) == set(SCORER_KINDS) == set(KIND_OF_SCORER.values())
    for entry in SCORERS.values():
        module, _, function = entry.opener.partition(":")
        assert callable(getattr(importlib.import_module(f"actors.rewards.{module}"), function))


def test_weights_and_processors_are_loaded_at_the_pinned_commits_only(
    clip: Path, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of the hub holds one commit of each repository, and no name of a branch. There is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("yuvalkirstain/PickScore_v1", PROCESSOR, "openai/clip-vit-base-patch32"):
        shutil.copytree(clip, tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / PINNED[name])
    pickscore, clip_score = ("yuvalkirstain/PickScore_v1", "cpu", 4), ("openai/clip-vit-base-patch32", "cpu", 4)
    expected = open_pickscore(ScorerContext(str(clip), "cpu", 4)).score(images[:1], [PROMPT]).mu
    assert open_pickscore(ScorerContext(*pickscore)).score(images[:1], [PROMPT]).mu == expected
    assert open_clip_score(ScorerContext(*clip_score)).score(images[:1], [PROMPT]).mu > 0
    with pytest.raises(OSError, match="find them in the cached files"):
        open_pickscore(ScorerContext(*pickscore, revision="main"))


def test_a_commit_of_the_settings_replaces_the_pinned_one() -> None:
    published = {entry.model for entry in SCORERS.values()} - {
        "zhiqiulin/clip-flant5-xxl",
        SCORERS["unifiedreward"].model,
    }
    beside = {PROCESSOR, hpsv3.BASE, image_reward.TOKENIZER, vqascore.TOKENIZER, vqascore.TOWER}
    assert set(PINNED) == published | beside
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in PINNED.values())
    assert (ScorerContext("xswu/HPSv2", "cpu", 1).commit, commit_of("a/b")) == (PINNED["xswu/HPSv2"], "main")
    assert ScorerContext("xswu/HPSv2", "cpu", 1, "v2").commit == "v2"


def test_requirements_become_the_runtime_environment_of_a_replica() -> None:
    pip = runtime_env_of("hpsv3", "pip", {"env_vars": {"A": "1"}})
    assert pip["pip"] == {"packages": list(SCORERS["hpsv3"].requirements), "pip_install_options": ["--no-deps"]}
    assert pip["env_vars"] == {"A": "1"}
    uv = runtime_env_of("hpsv3", "uv", {})
    assert uv == {"uv": {"packages": pip["pip"]["packages"], "uv_pip_install_options": ["--no-deps"]}}
    assert runtime_env_of("hpsv3", "installed", {}) == {}
    assert runtime_env_of("hpsv3", "pip", {"uv": ["mine"]}) == {"uv": ["mine"]}
    for environment in (pip, uv):
        RuntimeEnv(**environment)  # Ray checks the form


def test_a_reward_model_of_the_settings_scores_like_its_class(clip: Path, images: np.ndarray) -> None:
    term = RewardTerm(kind="pickscore", weight=1.0, model=str(clip), packages="installed")
    scores = cast(Any, open_reward("mine", term, None, "", {})).score(images, [PROMPT] * len(images))
    expected = open_pickscore(ScorerContext(str(clip), "cpu", 24)).score(images, [PROMPT] * len(images))
    assert scores.mu.tolist() == expected.mu.tolist()


def test_a_reward_model_that_cannot_be_loaded_is_refused_before_anything_starts() -> None:
    for words, message in (
        (["rewards.hpsv3=1"], r"rewards\.hpsv3\.gpus is 0, but hpsv3 has 8\.3 billion parameters"),
        (["rewards.hpsv3=1", "rewards.hpsv3.gpus=1", "rewards.hpsv3.packages=installed"], "needs the package hpsv3"),
        (["rewards.pickscore=1", "rewards.pickscore.model=/nowhere"], r"rewards\.pickscore\.model=/nowhere: there is"),
    ):
        with pytest.raises(UserError, match=message):
            check_reward_sources(load("scenes", words))
