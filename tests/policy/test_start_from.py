"""A run starts from exactly the LoRA that it is given, and what does not fit is refused with the difference."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import save_file

from actors.files import write_file
from actors.policy.flux import FluxPolicy
from actors.policy.lora import WEIGHT_NAME, save_lora
from actors.policy.start import StartLora
from conf import Settings, SettingsError, dump, load
from conf.flux import FluxSettings
from pipelines.policy.checkpoint import run_checkpoints
from pipelines.policy.resume import run_identity
from pipelines.policy.start_source import check_start
from pipelines.policy.start_weights import KeptStart, check_start_weights, keep_start_lora
from tests.support.policy_checkpoint import write_checkpoint_of
from tests.support.tiny_flux import TEXTS, perturb_lora

TARGETS = ("attn.to_q", "ff_context.net.2")
LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff_context.net.2")
ALPHA = 12
"""Of the LoRAs below, of rank 4. A run of these tests has 8, so its B must be another one."""

SettingsOf = Callable[..., Settings]


def started(settings_of: SettingsOf, folder: Path, start: Path | str, *overrides: str) -> Settings:
    lora = ["flux.lora_rank=4", "flux.lora_alpha=8", f"flux.lora_targets={json.dumps(TARGETS)}"]
    return settings_of(folder / "run", *lora, f"policy.start_from={start}", *overrides)


def numbers(*layers: str, rank: int = 4, prefix: str = "transformer.") -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = {}
    for layer in layers:
        weights[f"{prefix}{layer}.lora_A.weight"] = np.ones((rank, 6), np.float32)
        weights[f"{prefix}{layer}.lora_B.weight"] = np.ones((6, rank), np.float32)
    return weights


REFUSED: dict[str, tuple[dict[str, np.ndarray] | bytes, str]] = {
    "another rank": (numbers(*LAYERS, rank=8), r"its rank is 8, flux\.lora_rank is 4: set flux\.lora_rank"),
    "more layers": (
        numbers(*LAYERS, "transformer_blocks.0.attn.to_k"),
        r"flux\.lora_targets does not name transformer_blocks\.0\.attn\.to_k, which it adapts",
    ),
    "fewer layers": (numbers(LAYERS[0]), r"it does not adapt ff_context\.net\.2 of flux\.lora_targets"),
    "both": (numbers(LAYERS[0], rank=2), r"its rank is 2.*; it does not adapt ff_context\.net\.2"),
    "a text encoder": (numbers("text_encoder.q", prefix=""), r"no LoRA weight of a transformer: save the LoRA with"),
    "another format": ({"lora_unet_q.alpha": np.ones(1)}, r"holds lora_unet_q\.alpha, which is no LoRA weight"),
    "half a pair": (dict(list(numbers(*LAYERS).items())[:3]), r"must be half of a pair of matrices"),
    "two ranks": (numbers(LAYERS[0]) | numbers(LAYERS[1], rank=2), r"must hold a LoRA of one rank, found 4 \(.*2 \("),
    "nothing": ({}, "must hold a LoRA of one rank, found no weights"),
    "no weights": (b"a picture", "is no safetensors file"),
    "a cut file": (safetensors.numpy.save(numbers(*LAYERS))[:100], "is no safetensors file"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_lora_that_does_not_fit_is_refused_by_its_header(
    content: dict[str, np.ndarray] | bytes, message: str, settings_of: SettingsOf, tmp_path: Path
) -> None:
    data = content if isinstance(content, bytes) else safetensors.numpy.save(content)
    (tmp_path / WEIGHT_NAME).write_bytes(data)
    with pytest.raises(SettingsError, match=rf"^policy\.start_from={tmp_path}.*{message}"):
        check_start(started(settings_of, tmp_path, tmp_path))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("nowhere", "a run directory with a trained policy: there is no such file or folder"),
        ("empty", "it holds none of them"),
        ("run", "it belongs to the run itself: choose another run_dir"),
        ("run/policy/checkpoints/000001", "it belongs to the run itself"),
        ("dora", "uses peft's use_dora: a policy has a plain LoRA"),
    ],
)
def test_what_holds_no_lora_is_refused(start: str, message: str, settings_of: SettingsOf, tmp_path: Path) -> None:
    settings = started(settings_of, tmp_path, tmp_path / start)
    dump(settings, tmp_path / "run" / "settings.yaml")
    (tmp_path / "empty").mkdir()
    write_file(str(tmp_path / "dora" / "adapter_model.safetensors"), safetensors.numpy.save(numbers(*LAYERS)))
    write_file(str(tmp_path / "dora" / "adapter_config.json"), b'{"r": 4, "lora_alpha": 4, "use_dora": true}')
    with pytest.raises(SettingsError, match=message):
        check_start(settings)


def test_shapes_are_compared_with_those_of_the_base(settings_of: SettingsOf, tmp_path: Path) -> None:
    every = [f"transformer_blocks.{block}.{target}" for block in (0, 1) for target in TARGETS]
    every += [f"single_transformer_blocks.{block}.attn.to_q" for block in (0, 1)]
    for layers, message in (
        (every, r"transformer_blocks\.0\.attn\.to_q\.lora_A\.weight is \[4, 6\] instead of \[4, 96\]"),
        (
            every[:4],
            r"4 weights differ, e\.g\. single_transformer_blocks\.0\.attn\.to_q\.lora_A\.weight is only in the policy",
        ),
    ):
        (tmp_path / WEIGHT_NAME).write_bytes(safetensors.numpy.save(numbers(*layers)))
        with pytest.raises(SettingsError, match=message):
            check_start_weights(started(settings_of, tmp_path, tmp_path))


@pytest.fixture(scope="module")
def trained(flux_directory: Path) -> FluxPolicy:
    """A policy with a LoRA of rank 4 and another alpha than that of the runs."""
    policy = FluxPolicy.from_pretrained(str(flux_directory), flux_of(flux_directory, ALPHA))
    perturb_lora(policy, 0.3)
    return policy


def flux_of(flux_directory: Path, alpha: int) -> FluxSettings:
    return FluxSettings(model=str(flux_directory), lora_rank=4, lora_alpha=alpha, lora_targets=TARGETS)


def as_diffusers(policy: FluxPolicy, folder: Path) -> Path:
    save_lora(policy.lora_state(), policy.settings, folder)
    return folder


def as_file_with_metadata(policy: FluxPolicy, folder: Path) -> Path:
    """As newer versions of diffusers write it."""
    config = {"transformer.r": 4, "transformer.lora_alpha": ALPHA, "transformer.alpha_pattern": {}}
    weights = {f"transformer.{key}": value.contiguous() for key, value in policy.lora_state().items()}
    save_file(weights, folder / "mine.safetensors", {"format": "pt", "lora_adapter_metadata": json.dumps(config)})
    return folder / "mine.safetensors"


def as_peft(policy: FluxPolicy, folder: Path) -> Path:
    weights = {f"base_model.model.{key}": value.contiguous() for key, value in policy.lora_state().items()}
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"r": 4, "lora_alpha": ALPHA / 2, "use_rslora": True}  # alpha / sqrt(r) = ALPHA / 4
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def write_checkpoint(policy: FluxPolicy, settings: Settings, version: int, factor: float = 1.0) -> Path:
    """A checkpoint of a run with the settings of the policy; its moving average is `factor` times its weights."""
    buffer = io.BytesIO()
    lora = policy.lora_state()
    torch.save({"lora": lora, "ema": {key: value * factor for key, value in lora.items()}}, buffer)
    identity = run_identity(settings)
    return Path(write_checkpoint_of(run_checkpoints(settings), version, buffer.getvalue(), settings=identity))


def another_run(policy: FluxPolicy, folder: Path) -> Settings:
    targets = json.dumps(TARGETS)
    overrides = ["flux.lora_rank=4", f"flux.lora_alpha={ALPHA}", f"flux.lora_targets={targets}"]
    settings = load("scenes", [f"run_dir={folder}", f"flux.model={policy.settings.model}", *overrides])
    dump(settings, folder / "settings.yaml")
    return settings


def as_checkpoint(policy: FluxPolicy, folder: Path) -> Path:
    return write_checkpoint(policy, another_run(policy, folder / "other"), 7)


def as_run(policy: FluxPolicy, folder: Path) -> Path:
    write_checkpoint(policy, another_run(policy, folder / "other"), 3, factor=9.0)
    write_checkpoint(policy, another_run(policy, folder / "other"), 7)
    return folder / "other"


def as_run_with_an_export(policy: FluxPolicy, folder: Path) -> Path:
    another_run(policy, folder / "other")
    as_diffusers(policy, folder / "other" / "policy" / "export")
    return folder / "other"


SOURCES = [as_diffusers, as_file_with_metadata, as_peft, as_checkpoint, as_run, as_run_with_an_export]


@pytest.mark.parametrize("write", SOURCES)
def test_version_0_is_the_lora_whatever_its_alpha_was(
    write: Callable[[FluxPolicy, Path], Path], trained: FluxPolicy, settings_of: SettingsOf, tmp_path: Path
) -> None:
    settings = started(settings_of, tmp_path, write(trained, tmp_path))
    check_start_weights(settings)
    kept = keep_start_lora(settings, run_checkpoints(settings))
    assert kept and kept.fingerprint in kept.note
    policy = FluxPolicy.from_pretrained(settings.flux.model, settings.flux)
    kept.lora.load_into(policy, is_reference=True)
    x, s = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.8)
    rows = policy.batch_conditioning(policy.encode(TEXTS))
    with torch.no_grad(), trained.base():
        base = trained.velocity(x, s, rows)
    with torch.no_grad():
        expected = trained.velocity(x, s, rows)
        torch.testing.assert_close(policy.velocity(x, s, rows), expected, atol=1e-5, rtol=1e-4)
        with policy.reference():
            torch.testing.assert_close(policy.velocity(x, s, rows), expected, atol=1e-5, rtol=1e-4)
    assert (expected - base).abs().max() > 0.01


def test_a_run_that_has_begun_needs_its_copy_only(trained: FluxPolicy, settings_of: SettingsOf, tmp_path: Path) -> None:
    original = as_diffusers(trained, tmp_path / "original")
    settings = started(settings_of, tmp_path, original, "policy.algorithm.kl_reference=start")
    checkpoints = run_checkpoints(settings)
    first = keep_start_lora(settings, checkpoints)
    (original / WEIGHT_NAME).unlink()
    with pytest.raises(SettingsError, match="it holds none of them"):
        keep_start_lora(settings, checkpoints)
    write_checkpoint(trained, settings, 1)
    check_start_weights(settings)
    again = keep_start_lora(settings, checkpoints)
    assert first and again == KeptStart(first.lora, "") and isinstance(again.lora, StartLora)
    Path(checkpoints.start).unlink()
    with pytest.raises(SettingsError, match=r"kl_reference=start needs .*lora\.safetensors, which is gone"):
        keep_start_lora(settings, checkpoints)
    write_file(checkpoints.start, b"start")
    checkpoints.clear()
    assert not Path(checkpoints.start).parent.exists()


def test_a_damaged_checkpoint_is_no_start(trained: FluxPolicy, settings_of: SettingsOf, tmp_path: Path) -> None:
    folder: Any = as_checkpoint(trained, tmp_path)
    settings = started(settings_of, tmp_path, folder)
    (folder / "rank-0.pt").write_bytes(b"damaged")
    with pytest.raises(SettingsError, match=r"is damaged: .*has changed since it was written"):
        keep_start_lora(settings, run_checkpoints(settings))
