"""Every rival's adapter on a tiny random configuration of its class, and the judges over HTTP on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BlipConfig,
    CLIPConfig,
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

from actors.services.budget import BudgetReached
from conf import SettingsError, load
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.roles.base import RowSpec
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter
from pipelines.pretrain.vlm_model import build_tokenizer
from pipelines.reward.baselines import hpsv3, image_reward, unified_reward, vqascore
from pipelines.reward.baselines.clip import HPSV2_FILE, ClipScorer, from_open_clip, open_hpsv2, open_pickscore
from pipelines.reward.baselines.hpsv3 import Hpsv3, Hpsv3Scorer
from pipelines.reward.baselines.registry import ScorerContext
from pipelines.reward.baselines.run import content_digest, predict_by_baseline
from pipelines.reward.baselines.vlm import choice_in
from pipelines.reward.data import Pair
from pipelines.reward.predictions import ScoringJudge
from tests.support.openai_server import Behaviour, serving
from tests.support.tiny_reward import save_tiny_vlm

TEXT = "a red circle left of a blue square"
LONG = " and above a green triangle".join([TEXT] * 4)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


def _pair(images: np.ndarray, text: str = TEXT) -> Pair:
    return Pair("0", text, None, images[0], images[1], "perturbed", 1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with tokenizer and image processor, as PickScore is published; 16 positions of text."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer().backend_tokenizer, pad_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 128, "max_position_embeddings": 16, "eos_token_id": 127},
        vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=24,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_clip_scores_do_not_depend_on_the_batch_and_say_what_they_cut(clip: Path, images: np.ndarray) -> None:
    pairs = [_pair(images), _pair(images[2:], LONG)]
    judged = open_pickscore(ScorerContext(str(clip), "cpu", 4)).judge(pairs)
    alone = open_pickscore(ScorerContext(str(clip), "cpu", 1)).judge(pairs)
    np.testing.assert_allclose(judged.margin, alone.margin, atol=1e-4)
    assert np.abs(judged.margin).min() > 1e-4
    assert judged.truncated.tolist() == [False, True]
    longer = open_pickscore(ScorerContext(str(clip), "cpu", 4)).judge([_pair(images[2:], LONG + " and so on")])
    assert longer.margin[0] == pytest.approx(judged.margin[1], abs=1e-5)  # what was cut is indeed not read


def test_hpsv2_is_the_clip_whose_open_clip_names_it_translates(clip: Path, images: np.ndarray, tmp_path: Path) -> None:
    model = CLIPModel.from_pretrained(clip)
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({"state_dict": _as_open_clip(model)}, tmp_path / HPSV2_FILE)
    judged = open_hpsv2(ScorerContext(str(tmp_path), "cpu", 4)).judge([_pair(images)])
    wanted = ScoringJudge(ClipScorer(model, str(clip), "cpu"), 4).judge([_pair(images)])
    np.testing.assert_allclose(judged.margin, wanted.margin, atol=1e-5)
    torch.save({"state_dict": {**_as_open_clip(model), "extra": torch.ones(1)}}, tmp_path / HPSV2_FILE)
    with pytest.raises(ValueError, match="unknown"):
        open_hpsv2(ScorerContext(str(tmp_path), "cpu", 4))


def _as_open_clip(model: CLIPModel) -> dict[str, torch.Tensor]:
    """The way back, tensor by tensor, by the names that OpenCLIP's ViT gives its parts."""
    state, found = model.state_dict(), {"attn_mask": torch.zeros(16, 16), "logit_scale": model.logit_scale.data}
    for ours, theirs, tower in (("vision_model", "visual.", "visual"), ("text_model", "", "text")):
        for layer in range(2):
            here, there = f"{ours}.encoder.layers.{layer}", f"{theirs}transformer.resblocks.{layer}"
            for kind in ("weight", "bias"):
                parts = [state[f"{here}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{there}.attn.in_proj_{kind}"] = torch.cat(parts)
                found[f"{there}.attn.out_proj.{kind}"] = state[f"{here}.self_attn.out_proj.{kind}"]
                found[f"{there}.ln_1.{kind}"] = state[f"{here}.layer_norm1.{kind}"]
                found[f"{there}.ln_2.{kind}"] = state[f"{here}.layer_norm2.{kind}"]
                found[f"{there}.mlp.c_fc.{kind}"] = state[f"{here}.mlp.fc1.{kind}"]
                found[f"{there}.mlp.c_proj.{kind}"] = state[f"{here}.mlp.fc2.{kind}"]
        found["visual.proj" if tower == "visual" else "text_projection"] = state[f"{tower}_projection.weight"].T
    for kind in ("weight", "bias"):
        found[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
        found[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
    found["token_embedding.weight"] = state["text_model.embeddings.token_embedding.weight"]
    found["positional_embedding"] = state["text_model.embeddings.position_embedding.weight"]
    found["visual.conv1.weight"] = state["vision_model.embeddings.patch_embedding.weight"]
    found["visual.class_embedding"] = state["vision_model.embeddings.class_embedding"]
    found["visual.positional_embedding"] = state["vision_model.embeddings.position_embedding.weight"]
    assert set(from_open_clip(found)) == {name for name in state if not name.endswith("position_ids")}
    return found


def _tiny_qwen2_vl(folder: Path) -> Qwen2VLConfig:
    """Configuration, tokenizer and image processor of a small Qwen2-VL."""
    save_tiny_vlm(folder)  # tokenizer and image processor are of Qwen2-VL's form
    config = Qwen2VLConfig(
        text_config={"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "num_key_value_heads": 2, "vocab_size": 128, "initializer_range": 0.3,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 2, 2]}},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 48, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2,
                       "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=6, video_token_id=7, vision_start_token_id=4, vision_end_token_id=5,
    )  # fmt: skip
    config.save_pretrained(folder)
    return config


def test_hpsv3_reads_published_names_and_keeps_flat_positions(images: np.ndarray, tmp_path: Path) -> None:
    config = _tiny_qwen2_vl(tmp_path)
    torch.manual_seed(0)
    source = Hpsv3(config, (24, 8))
    with torch.no_grad():
        source.rm_head[5].bias.copy_(torch.tensor([2.0, 50.0]))  # mu apart from log sigma
    named = {name.replace("backbone.language_model.", "model.").replace("backbone.", ""): value
             for name, value in source.state_dict().items()}  # fmt: skip
    assert {name.split(".")[0] for name in named} == {"model", "visual", "rm_head"}
    save_file({**named, "lm_head.weight": torch.zeros(128, 48)}, tmp_path / hpsv3.FILE)
    model = Hpsv3.from_state(config, {**named, "lm_head.weight": torch.zeros(128, 48)})
    template = "Textual prompt - {text_prompt}\noverall <|Reward|>\n\nEND\n"
    scorer = Hpsv3Scorer(model, str(tmp_path), template, "cpu", pixels=4096)
    texts = [TEXT, "<|Reward|> a red circle", LONG, TEXT]
    scores = scorer.score(images, texts)
    alone = [scorer.score(images[i : i + 1], texts[i : i + 1]).values[0] for i in range(4)]
    np.testing.assert_allclose(scores.values, alone, atol=1e-4)  # padding does not matter
    assert np.abs(scores.values).max() < 30 and not scores.truncated.any()
    turned = images[:1, :, ::-1]
    assert scorer.score(turned, [TEXT]).values[0] != pytest.approx(scores.values[0], abs=1e-4)
    with pytest.raises(RuntimeError, match="Missing key"):
        Hpsv3.from_state(config, {name: value for name, value in named.items() if "layers.1" not in name})


def test_unified_reward_generates_and_only_a_clear_answer_counts(images: np.ndarray, tmp_path: Path) -> None:
    save_tiny_vlm(tmp_path)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    rival = unified_reward.UnifiedReward(model, str(tmp_path), "cpu", pairs=2, new_tokens=4)
    judged = rival.judge([_pair(images), _pair(images[2:], LONG)])
    assert np.isnan(judged.margin).all()  # random weights say nothing that is an answer
    assert unified_reward.answer_in("... Image 1 is better.") == 1.0
    assert unified_reward.answer_in("Image 2 is better.") == -1.0
    assert unified_reward.answer_in("Both images are equally good.") == 0.0
    assert np.isnan(unified_reward.answer_in("Image 1 is better. No, Image 2 is better."))


def test_image_reward_is_read_by_its_published_names(clip: Path, images: np.ndarray, tmp_path: Path) -> None:
    """A tiny BLIP under the names of the published file; the text ends after 35 tokens."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={**sizes, "vocab_size": 128, "encoder_hidden_size": 32, "max_position_embeddings": 64},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = image_reward.ImageReward(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # fresh ones hardly look at the image
    published = {_published(name): value for name, value in model.state_dict().items()}
    assert {"blip.visual_encoder.blocks.1.attn.qkv.weight", "blip.visual_encoder.pos_embed", "mlp.layers.7.bias",
            "blip.text_encoder.encoder.layer.1.crossattention.self.key.weight"} <= set(published)  # fmt: skip
    torch.save({**published, "blip.vision_proj.weight": torch.zeros(1)}, tmp_path / image_reward.FILE)
    long = " ".join([TEXT] * 6)
    pairs = [_pair(images), _pair(images[2:], long)]
    judged = image_reward.open_image_reward(ScorerContext(str(tmp_path), "cpu", 4)).judge(pairs)
    alone = ScoringJudge(image_reward.ImageRewardScorer(model, str(tmp_path), "cpu"), 1).judge(pairs)
    np.testing.assert_allclose(judged.margin, alone.margin, rtol=1e-3, atol=1e-4)
    assert np.abs(judged.margin).min() > 1e-2
    assert judged.truncated.tolist() == [False, True]


def _published(name: str) -> str:
    """The way back to the names of the published file."""
    if name.startswith("mlp."):
        _, number, kind = name.split(".")
        return f"mlp.layers.{(0, 2, 4, 6, 7)[int(number)]}.{kind}"
    if name.startswith("text."):
        return f"blip.text_encoder.{name.removeprefix('text.')}"
    for ours, theirs in (
        ("embeddings.class_embedding", "cls_token"), ("embeddings.position_embedding", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"), ("post_layernorm", "norm"), ("encoder.layers", "blocks"),
        ("layer_norm", "norm"), ("self_attn.qkv", "attn.qkv"), ("self_attn.projection", "attn.proj"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return f"blip.visual_encoder.{name.removeprefix('vision.')}"


def test_vqascore_is_the_probability_of_yes(clip: Path, images: np.ndarray, tmp_path: Path) -> None:
    """A tiny CLIP-FlanT5. Its probabilities do not depend on what else is in the batch."""
    torch.manual_seed(0)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    config = T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2, pad_token_id=0,
                      decoder_start_token_id=0, mm_hidden_size=24)  # fmt: skip
    vqascore.ClipFlanT5(config).save_pretrained(tmp_path)
    tower = CLIPVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                             image_size=32, patch_size=8)  # fmt: skip
    CLIPVisionModel(tower).save_pretrained(tmp_path / "tower")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "tower"
    )
    pairs = [_pair(images), _pair(images[2:, :32], LONG)]  # the second's images are not square
    judged = vqascore.open_vqascore(ScorerContext(str(tmp_path), "cpu", 4)).judge(pairs)
    alone = vqascore.open_vqascore(ScorerContext(str(tmp_path), "cpu", 2)).judge(pairs)
    np.testing.assert_allclose(judged.margin, alone.margin, atol=1e-6)
    assert (np.abs(judged.margin) > 1e-7).all() and (np.abs(judged.margin) < 1).all()
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="mm_projector"):
        vqascore.open_vqascore(ScorerContext(str(tmp_path), "cpu", 4))


def judge(body: dict[str, Any], untrue: bool) -> str:
    """Pairwise: prefers the image that comes first as base64. Pointwise: grades by length."""
    parts = body["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return ("1" if urls[0] < urls[1] else "2") if len(urls) == 2 else str(len(urls[0]) % 11)


@pytest.fixture
def endpoint() -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour(speak=judge)
    with serving(behaviour) as url:
        yield url, behaviour


@pytest.mark.ray
def test_a_judge_is_asked_in_both_orders_and_never_twice(
    ray_cluster: None, endpoint: tuple[str, Behaviour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behaviour = endpoint
    tasks = [RowSpec(index, "perturbed", index) for index in range(6)]
    painted = SceneGenerator().generate(ScenePerturber().perturb(SceneWriter().write(tasks)))
    (tmp_path / "preferences").mkdir()
    pq.write_table(
        to_table(painted, SceneReviewer().review(painted), ["test"] * 6, "test"), tmp_path / "preferences/0.parquet"
    )
    settings = load("scenes", [
        f"run_dir={tmp_path}", "baselines.names=[GPT-5]", f"baselines.urls.GPT-5={url}", "baselines.chunk_pairs=4",
        "baselines.cpus=0.1",
    ])  # fmt: skip
    lines: list[str] = []
    with pytest.raises(ValueError, match="OPENAI_API_KEY, which is not set"):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        predict_by_baseline("GPT-5", settings, lines.append)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    judged = predict_by_baseline("GPT-5", settings, lines.append)
    assert set(judged.margin.tolist()) <= {1.0, -1.0}  # consistent in both orders, so never a tie
    assert [body["model"] for body in behaviour.bodies] == ["gpt-5"] * 12
    again = predict_by_baseline("GPT-5", settings, lines.append)
    assert len(behaviour.bodies) == 12 and again.margin.tolist() == judged.margin.tolist()
    assert "6/6 pairs" in lines[-1] and len(lines) == 2
    graded = replace(settings, baselines=replace(settings.baselines, judge_form="pointwise"))
    assert len(predict_by_baseline("GPT-5", graded, lines.append).margin) == 6
    assert len(behaviour.bodies) == 24
    assert "sk-secret" not in "".join(lines)
    limited = replace(settings, run_dir=str(tmp_path / "poor"), budget=replace(settings.budget, calls=5))
    shutil.copytree(tmp_path / "preferences", tmp_path / "poor/preferences")
    with pytest.raises(BudgetReached, match=r"budget\.calls=5 is reached"):
        predict_by_baseline(
            "GPT-5", replace(limited, baselines=replace(limited.baselines, judge_concurrency=1)), lines.append
        )
    assert len(behaviour.bodies) == 29


def test_answers_are_kept_by_what_was_judged_pixels_too(images: np.ndarray) -> None:
    one, other = _pair(images), _pair(images[::-1])
    assert content_digest([one]) == content_digest([_pair(images.copy())])
    assert len({content_digest(pairs) for pairs in ([one], [other], [one, other], [_pair(images, LONG)])}) == 4


def test_a_rival_that_is_not_known_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean HPSv3"):
        load("scenes", ["baselines.names=[HPSv4]"])
    assert choice_in("Image 2.") == -1.0
    assert np.isnan(choice_in("1 or 2"))
