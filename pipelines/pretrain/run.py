# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""`spatialt2i scenes pretrain`: trains the shipped tiny checkpoints in a given time.

Parts, in order: the text encoders, the autoencoder, FLUX on true captions, the decoder of the autoencoder once more,
FLUX distilled and with wrong captions (`mislabelled`), FLUX with a reward for objects, and Qwen2.5-VL. A finished part
is saved, and a later call reuses it. To train a part again, delete its folder (of the part `objects`, its run
`objects.run`, too). No part uses a held-out prompt.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import ray
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from transformers.utils import logging as transformers_logging

from actors.folders import require_replaceable, write_folder
from conf import PretrainSettings
from pipelines.pretrain.flux import FluxPhase, train_phase
from pipelines.pretrain.flux_batches import Encoders
from pipelines.pretrain.measure import check_images, summary
from pipelines.pretrain.objects import train_on_objects
from pipelines.pretrain.parts import Part, Pretraining, copy_shipped_parts, save_part
from pipelines.pretrain.text import train_text_encoders
from pipelines.pretrain.vae import train_decoder, train_vae
from pipelines.pretrain.vlm import VlmPhase, train_vlm
from pipelines.scenes import checkpoints_dir
from pipelines.scenes.grammar import held_out_prompts


def pretrain(settings: PretrainSettings, log: Callable[[str], None] = print) -> Path:
    """Trains `<out>/flux` (a FluxPipeline directory) and `<out>/qwen2_5_vl`. Returns `out`. Ray must be initialised."""
    if not ray.is_initialized():
        raise RuntimeError("pretrain needs a running Ray: call ray.init() first")
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(settings.workers)
    run, out = Pretraining(settings, log), Path(settings.out)
    for folder in (out / "flux", out / "qwen2_5_vl"):
        require_replaceable(folder)
    copy_shipped_parts(run)
    _train_encoders(run)
    _train_flux_on_true_captions(run)
    _train_decoder(run)
    _train_flux_mislabelled(run)
    _train_flux_on_objects(run)
    _save_flux(run, out / "flux")
    _train_vlm(run, out / "flux")
    write_folder(out / "qwen2_5_vl", lambda folder: shutil.copytree(run.parts / "vlm", folder, dirs_exist_ok=True))
    run.report(f"done: {out}. To ship the checkpoints, copy flux and qwen2_5_vl to pipelines/scenes/checkpoints")
    return out


def _train_encoders(run: Pretraining) -> None:
    if run.missing("text"):
        text = train_text_encoders(run.seconds("text"), run.settings.seed, run.report)
        save_part(run.parts / "text", tokenizer=text.tokenizer, clip=text.clip, t5=text.t5)
    if run.missing("vae"):
        save_part(run.parts / "vae", vae=train_vae(run.seconds("vae"), run.settings.seed, run.report))


def _train_flux_on_true_captions(run: Pretraining) -> None:
    if not run.missing("flux"):
        return
    resumes = run.settings.from_shipped == "flux"
    _train_flux(
        run,
        "flux",
        initial=checkpoints_dir("flux") / "transformer" if resumes else None,
        lr=8e-4 if resumes else 1.5e-3,
        final_lr=5e-5,
        distill=False,
        mislabelled_fraction=0.0,
    )
    _measure(run, "after true captions", _pipeline(run, "flux", "vae"))


def _train_decoder(run: Pretraining) -> None:
    if run.missing("decoder"):
        vae = AutoencoderKL.from_pretrained(run.parts / "vae" / "vae").requires_grad_(False)
        trained = train_decoder(vae, run.seconds("decoder"), run.settings.seed + 2, run.report)
        save_part(run.parts / "decoder", vae=trained)


def _train_flux_mislabelled(run: Pretraining) -> None:
    if not run.missing("mislabelled"):
        return
    _train_flux(
        run,
        "mislabelled",
        initial=run.parts / "flux" / "flux",
        lr=5e-4,
        final_lr=3e-5,
        distill=True,
        mislabelled_fraction=run.settings.mislabelled_fraction,
    )
    _measure(run, "after wrong captions", _pipeline(run, "mislabelled"))


def _train_flux_on_objects(run: Pretraining) -> None:
    if run.missing("objects"):
        seconds, folder = run.seconds("objects"), run.parts / "objects.run"
        trained = train_on_objects(_pipeline(run, "mislabelled"), folder, seconds, run.settings.seed, run.report)
        save_part(run.parts / "objects", flux=trained)


def _save_flux(run: Pretraining, folder: Path) -> None:
    pipeline = _pipeline(run, "objects")
    _measure(run, "final", pipeline)

    def write(partial: Path) -> None:
        pipeline.save_pretrained(partial)
        for config in partial.glob("*/config.json"):  # without the local paths of the parts
            entries = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
            config.write_text(json.dumps(entries, indent=2) + "\n")

    write_folder(folder, write)


def _train_vlm(run: Pretraining, flux: Path) -> None:
    if run.missing("vlm"):
        initial = checkpoints_dir("qwen2_5_vl") if run.settings.from_shipped == "vlm" else None
        partial = run.parts / "vlm.partial"
        phase = VlmPhase(partial, flux.absolute(), initial, run.seconds("vlm"), run.settings.seed)
        run.run_on_workers(train_vlm, phase)
        partial.rename(run.parts / "vlm")


def _train_flux(
    run: Pretraining,
    part: Part,
    initial: Path | None,
    lr: float,
    final_lr: float,
    distill: bool,
    mislabelled_fraction: float,
) -> None:
    partial = run.parts / f"{part}.partial"
    phase = FluxPhase(
        parts=run.parts,
        initial=initial,
        out=partial / "flux",
        seconds=run.seconds(part),
        seed=run.settings.seed + distill,
        lr=lr,
        final_lr=final_lr,
        distill=distill,
        mislabelled_fraction=mislabelled_fraction,
        compile=run.settings.compile,
    )
    run.run_on_workers(train_phase, phase)
    partial.rename(run.parts / part)


def _pipeline(run: Pretraining, part: Part, vae: str = "decoder") -> FluxPipeline:
    transformer = FluxTransformer2DModel.from_pretrained(run.parts / part / "flux")
    return Encoders.load(run.parts, vae).pipeline(transformer)


def _measure(run: Pretraining, name: str, pipeline: FluxPipeline) -> None:
    for kind, long in (("short", False), ("long", True)):
        prompts = held_out_prompts(100, long, seed=5) * 3
        verdicts = check_images(pipeline, prompts, seed=0)
        run.report(f"FLUX {name}, {kind} held-out prompts, 6 denoise steps: {summary(verdicts)}")
