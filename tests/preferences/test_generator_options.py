"""What makes diffusers generators faster, on the real pipeline classes with tiny random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import ModelMixin
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from conf import SettingsError, UserError, load
from conf.generators import DiffusersSettings, QwenImageSettings
from pipelines.preferences.roles.checked_images import ImageRequest
from pipelines.preferences.roles.generators import DiffusersGenerator
from tests.support.tiny_generators import save_random_hunyuan, save_random_qwen

Name = Literal["qwen_image", "hunyuan_image"]
NAMES: tuple[Name, ...] = ("qwen_image", "hunyuan_image")
REQUESTS = [ImageRequest("a red circle", 3), ImageRequest("a blue square", 4)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "qwen_image": str(save_random_qwen(folder / "qwen")),
        "hunyuan_image": str(save_random_hunyuan(folder / "hunyuan")),
    }


def _settings(model: str, **changes: Any) -> DiffusersSettings:
    values: dict[str, Any] = {"height": 64, "width": 64, "denoise_steps": 3, "dtype": "float32", "gpus": 0.0} | changes
    return QwenImageSettings(model, **values)


def _generator(name: Name, models: dict[str, str], **changes: Any) -> DiffusersGenerator:
    return DiffusersGenerator(name, _settings(models[name], **changes), torch.device("cpu"))


def _pixels(generator: DiffusersGenerator) -> np.ndarray:
    return np.stack([image.pixels for image in generator.draw(REQUESTS)]).astype(int)


@pytest.fixture(scope="module")
def plain(models: dict[str, str]) -> dict[str, np.ndarray]:
    return {name: _pixels(_generator(name, models)) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_options_that_only_round_change_an_image_little(
    name: Name, models: dict[str, str], plain: dict[str, np.ndarray]
) -> None:
    for changes in ({"attention": "native"}, {"cache": "first_block", "cache_threshold": 1e-9}):
        difference = np.abs(_pixels(_generator(name, models, **changes)) - plain[name])
        assert difference.max() <= 2, changes
    tiled = _generator(name, models, vae_tiling=True)
    assert _pipeline(tiled).vae.use_tiling


@pytest.mark.parametrize("name", NAMES)
def test_a_high_threshold_of_the_cache_skips_blocks(
    name: Name, models: dict[str, str], plain: dict[str, np.ndarray]
) -> None:
    generator = _generator(name, models, cache="first_block", cache_threshold=1e9)
    calls = []
    _pipeline(generator).transformer.register_forward_hook(lambda *_: calls.append(1))
    first = _pixels(generator)
    assert len(calls) >= 3 and (first != plain[name]).any()
    assert (first == _pixels(generator)).all(), "the cache must not outlive a call"


@pytest.mark.parametrize("name", NAMES)
def test_eight_bits_halve_the_weights_and_keep_the_image_close(
    name: Name, models: dict[str, str], plain: dict[str, np.ndarray]
) -> None:
    generator = _generator(name, models, quantisation="fp8")
    blocks = list(_pipeline(generator).transformer.transformer_blocks.parameters())
    small = [one for one in blocks if one.dtype == torch.float8_e4m3fn]
    assert sum(one.numel() for one in small) > 0.6 * sum(one.numel() for one in blocks), "norms keep their precision"
    difference = np.abs(_pixels(generator) - plain[name])
    assert 0 < difference.mean() < 12


def test_a_lora_is_merged_with_its_scale(models: dict[str, str], plain: dict[str, np.ndarray], tmp_path: Path) -> None:
    generator = _generator("qwen_image", models)
    pipeline = _pipeline(generator)
    torch.manual_seed(0)
    pipeline.transformer.add_adapter(
        LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    with torch.no_grad():
        for key, weight in pipeline.transformer.named_parameters():
            if "lora_B" in key:
                weight.mul_(30)
    weights = get_peft_model_state_dict(pipeline.transformer)
    pipeline.save_lora_weights(tmp_path, transformer_lora_layers=weights, weight_name="few_steps.safetensors")
    adapted = _pixels(generator)
    lora = {"lora": str(tmp_path), "lora_file": "few_steps.safetensors"}
    merged = _generator("qwen_image", models, **lora)
    assert not _pipeline(merged).get_active_adapters()
    assert np.abs(_pixels(merged) - adapted).mean() < 0.5, "another order of the same sums"
    assert np.abs(plain["qwen_image"] - adapted).mean() > 1
    weak = _pixels(_generator("qwen_image", models, lora_scale=1e-6, **lora))
    assert np.abs(weak - plain["qwen_image"]).max() <= 2
    with pytest.raises(UserError, match=r"qwen_image\.lora must be a LoRA of this model"):
        _generator("qwen_image", models, lora=str(tmp_path), lora_file="other.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_the_shift_is_the_same_for_every_size(name: Name, models: dict[str, str]) -> None:
    generator = _generator(name, models, shift=3.0, denoise_steps=4)
    generator.draw(REQUESTS[:1])
    linear = np.linspace(1, 0.25, 4)
    expected = [*(3 * linear / (1 + 2 * linear)), 0.0]
    assert _pipeline(generator).scheduler.sigmas.tolist() == pytest.approx(expected, abs=1e-5)


def test_without_guidance_a_step_is_one_pass(models: dict[str, str]) -> None:
    for guidance, passes in ((4.0, 6), (1.0, 3)):
        generator = _generator("qwen_image", models, guidance=guidance)
        calls: list[int] = []
        _pipeline(generator).transformer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        generator.draw(REQUESTS)
        assert len(calls) == passes


@pytest.mark.parametrize("name", NAMES)
def test_texts_encoded_in_a_stage_of_their_own_give_the_same_images(
    name: Name, models: dict[str, str], plain: dict[str, np.ndarray]
) -> None:
    generator = _generator(name, models, offload="text", gpus=1.0)
    pipeline = _pipeline(generator)
    assert pipeline.text_encoder is None, "the encoders leave the GPU to the transformer"
    encode, encoded, passes = pipeline.encode_prompt, [], []

    def count(texts: list[str] | None = None, **arguments: Any) -> Any:
        if texts:
            encoded.extend(texts)
            assert not passes, "all texts of a shard are encoded before its first image"
        return encode(texts or arguments.pop("prompt"), **arguments)

    pipeline.encode_prompt = count
    pipeline.transformer.register_forward_hook(lambda *_: passes.append(pipeline.text_encoder))
    generator.announce([REQUESTS[0].text, REQUESTS[1].text, "a green triangle"])
    difference = np.abs(_pixels(generator) - plain[name])
    assert difference.max() <= 2, "another padding may change rounding only"
    generator.draw([ImageRequest("a green triangle", 5)])
    negative = {"qwen_image": " ", "hunyuan_image": ""}[name]
    assert sorted(encoded) == sorted([negative, "a red circle", "a blue square", "a green triangle"])
    assert passes and not any(passes)


def test_the_texts_of_a_shard_are_forgotten_with_it(models: dict[str, str]) -> None:
    generator = _generator("qwen_image", models, offload="text", gpus=1.0, guidance=1.0)
    pipeline, encoded = _pipeline(generator), []
    encode = pipeline.encode_prompt
    pipeline.encode_prompt = lambda texts=None, **rest: (
        encoded.extend(texts or []) or encode(texts or rest.pop("prompt"), **rest)
    )
    for _ in range(2):
        generator.announce(["a red circle"])
        generator.draw(REQUESTS)
    assert sorted(encoded) == sorted(["a red circle", "a blue square"] * 2)


def test_attention_that_is_not_installed_is_one_message(models: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"qwen_image\.attention=xformers cannot be used"):
        _generator("qwen_image", models, attention="xformers")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiled_blocks_give_the_same_image(
    name: Name, models: dict[str, str], plain: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_blocks, calls = ModelMixin.compile_repeated_blocks, []

    def without_code(model: ModelMixin) -> None:
        calls.append(model)  # the generated code takes minutes of a C++ compiler
        compile_blocks(model, backend="aot_eager")

    monkeypatch.setattr(ModelMixin, "compile_repeated_blocks", without_code)
    difference = np.abs(_pixels(_generator(name, models, compile=True)) - plain[name])
    assert len(calls) == 1 and difference.max() <= 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hunyuan_image.lora=someone/lora", "hunyuan_image.lora must be empty"),
        ("qwen_image.lora_file=a.safetensors", "names a file of qwen_image.lora"),
        ("qwen_image.attention=flash", "set qwen_image.batch=1"),
    ],
)
def test_options_that_cannot_work_are_refused(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load("scenes", [override])


def test_what_only_rounds_or_places_is_no_part_of_an_image() -> None:
    fast = _settings("a", attention="native", compile=True, offload="none", batch=1, actors=3)
    assert fast.identity() == _settings("a").identity()
    assert _settings("a", cache="first_block").identity() != _settings("a").identity()


def _pipeline(generator: DiffusersGenerator) -> Any:
    return generator._pipeline  # pyright: ignore[reportPrivateUsage]
