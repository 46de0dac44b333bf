# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""`spatialt2i scenes pretrain`: makes the shipped tiny checkpoints, seeded, in the time it is given.

Five parts, each saved when done and taken up again by a later call: the text encoders, the autoencoder, FLUX, the
autoencoder's decoder once more, and the Qwen2.5-VL. FLUX's last phase is done anew by every call. No part sees a
held-out prompt.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, PreTrainedTokenizerFast, T5EncoderModel
from transformers.utils import logging as transformers_logging

from conf import PretrainSettings
from pipelines.scenes.grammar import held_out_prompts
from pipelines.scenes.pretrain_flux import Encoders, assemble, judge, summary, train_transformer, weaken
from pipelines.scenes.pretrain_text import train_text_encoders
from pipelines.scenes.pretrain_vae import train_decoder, train_vae
from pipelines.scenes.pretrain_vlm import pretrain_vlm

SHARES = {"text": 0.06, "vae": 0.12, "flux": 0.48, "decoder": 0.08, "vlm": 0.18}  # of the wall clock


def pretrain(settings: PretrainSettings, say: Callable[[str], None] = print) -> Path:
    """Makes `<out>/flux` (a FluxPipeline directory) and `<out>/qwen2_5_vl`; returns `out`."""
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(settings.threads)
    out = Path(settings.out)
    parts = out / "parts"
    start = time.monotonic()

    def report(line: str) -> None:
        say(f"[{(time.monotonic() - start) / 60:5.1f} min] {line}")

    def seconds(part: str) -> float:
        return 60 * settings.minutes * SHARES[part]

    def missing(part: str) -> bool:
        if (parts / part).is_dir():
            report(f"{part}: taken from {parts / part}")
            return False
        return True

    if missing("text"):
        tokenizer, clip, t5 = train_text_encoders(seconds("text"), settings.seed, report)
        _save(parts / "text", tokenizer=tokenizer, clip=clip, t5=t5)
    if missing("vae"):
        _save(parts / "vae", vae=train_vae(seconds("vae"), settings.seed, report))
    encoders = load_encoders(parts)
    if missing("flux"):
        _save(parts / "flux", flux=train_transformer(encoders, seconds("flux"), settings.seed, report))
        _measure(assemble(encoders, _transformer(parts)), "before the last phase", report)
    if missing("decoder"):
        _save(parts / "decoder", vae=train_decoder(encoders.vae, seconds("decoder"), settings.seed + 2, report))
    encoders.vae = AutoencoderKL.from_pretrained(parts / "decoder" / "vae")
    model = weaken(_transformer(parts), encoders, settings, report)
    pipeline = assemble(encoders, model)
    _measure(pipeline, "shipped", report)
    _replace(out / "flux", lambda folder: pipeline.save_pretrained(folder))
    if missing("vlm"):
        _replace(parts / "vlm", lambda folder: pretrain_vlm(folder, seconds("vlm") / 60, settings.seed) and None)
    _replace(out / "qwen2_5_vl", lambda folder: shutil.copytree(parts / "vlm", folder, dirs_exist_ok=True) and None)
    report(f"done: {out}; copy its flux and qwen2_5_vl to pipelines/scenes/checkpoints to ship them")
    return out


def load_encoders(parts: Path) -> Encoders:
    """The frozen text encoders and autoencoder of an earlier call."""
    return Encoders(
        AutoencoderKL.from_pretrained(parts / "vae" / "vae"),
        PreTrainedTokenizerFast.from_pretrained(parts / "text" / "tokenizer"),
        CLIPTextModel.from_pretrained(parts / "text" / "clip").requires_grad_(False),
        T5EncoderModel.from_pretrained(parts / "text" / "t5").requires_grad_(False),
    )


def _transformer(parts: Path) -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(parts / "flux" / "flux")


def _measure(pipeline: FluxPipeline, name: str, report: Callable[[str], None]) -> None:
    for kind, long in (("short", False), ("long", True)):
        prompts = held_out_prompts(100, long, seed=5) * 3
        report(f"FLUX {name}, {kind} held-out prompts, 6 steps: {summary(judge(pipeline, prompts, seed=0))}")


def _save(folder: Path, **modules: PreTrainedTokenizerFast | torch.nn.Module) -> None:
    def write(partial: Path) -> None:
        for name, module in modules.items():
            module.save_pretrained(partial / name)  # pyright: ignore[reportCallIssue]

    _replace(folder, write)


def _replace(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes a directory under a temporary name, then puts it in the place of an older one."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
