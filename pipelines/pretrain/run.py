# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""`spatialt2i scenes pretrain`: makes the shipped tiny checkpoints, seeded, in the time it is given.

Parts, each saved when done and taken up again by a later call: the text encoders, the autoencoder, FLUX on true
captions, the autoencoder's decoder once more, FLUX distilled and weakened, FLUX rewarded for the objects it
draws, and the Qwen2.5-VL. Delete a part's folder to have it made anew. No part sees a held-out prompt.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from actors.files import write_folder
from conf import PretrainSettings
from pipelines.pretrain.flux import FluxPhase, judge, summary, train_phase
from pipelines.pretrain.flux_batches import Encoders
from pipelines.pretrain.objects import train_on_objects
from pipelines.pretrain.text import train_text_encoders
from pipelines.pretrain.vae import train_decoder, train_vae
from pipelines.pretrain.vlm import VlmPhase, train_vlm
from pipelines.pretrain.workers import run_on_workers
from pipelines.scenes import checkpoints_dir
from pipelines.scenes.grammar import held_out_prompts

SHARES = {  # of the wall clock
    "text": 0.03, "vae": 0.08, "flux": 0.40, "decoder": 0.05, "weak": 0.10, "objects": 0.12, "vlm": 0.22,
}  # fmt: skip
MADE = {"none": tuple(SHARES), "flux": ("flux", "decoder", "weak", "objects"), "vlm": ("vlm",)}
"""The parts that a call makes, by `pretrain.from_shipped`; the others are taken from what is shipped."""
SHIPPED = {  # part: its folders, and where they lie among the shipped checkpoints
    "text": {"tokenizer": "flux/tokenizer", "clip": "flux/text_encoder", "t5": "flux/text_encoder_2"},
    "vae": {"vae": "flux/vae"}, "decoder": {"vae": "flux/vae"},
    "flux": {"flux": "flux/transformer"}, "weak": {"flux": "flux/transformer"}, "objects": {"flux": "flux/transformer"},
    "vlm": {".": "qwen2_5_vl"},
}  # fmt: skip


@dataclass
class Pretraining:
    """One call of the command."""

    settings: PretrainSettings
    log: Callable[[str], None]
    start: float = field(default_factory=time.monotonic)

    @property
    def parts(self) -> Path:
        """Where finished parts lie."""
        return Path(self.settings.out).absolute() / "parts"

    def report(self, line: str) -> None:
        """Says a line with the minutes gone."""
        self.log(f"[{(time.monotonic() - self.start) / 60:5.1f} min] {line}")

    def seconds(self, part: str) -> float:
        """A part's share of the wall clock, which goes to the parts that this call makes."""
        made = MADE[self.settings.from_shipped]
        return 60 * self.settings.minutes * SHARES[part] / sum(SHARES[each] for each in made)

    def missing(self, part: str) -> bool:
        """Whether a part has still to be made."""
        if not (self.parts / part).is_dir():
            self.report(f"{part}: {self.seconds(part):.0f} s")
            return True
        self.report(f"{part}: taken from {self.parts / part}")
        return False

    def on_workers(self, work: Callable[[dict[str, Any]], None], phase: FluxPhase | VlmPhase) -> None:
        """Runs a phase on data-parallel workers."""
        run_on_workers(work, phase, self.settings.workers, self.parts / "ray", self.report)


def pretrain(settings: PretrainSettings, log: Callable[[str], None] = print) -> Path:
    """Makes `<out>/flux` (a FluxPipeline directory) and `<out>/qwen2_5_vl`; returns `out`. Ray must be initialised."""
    if not ray.is_initialized():
        raise RuntimeError("pretrain needs a running Ray: call ray.init() first")
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(settings.workers)
    run, out = Pretraining(settings, log), Path(settings.out)
    take_shipped(run)
    _encoders_and_flux(run)
    pipeline = _pipeline(run, "objects")
    _measure(run, "shipped", pipeline)
    write_folder(out / "flux", lambda folder: pipeline.save_pretrained(folder))
    for config in (out / "flux").glob("*/config.json"):
        told = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
        config.write_text(json.dumps(told, indent=2) + "\n")  # where its parts lay is nobody's business
    if run.missing("vlm"):
        shipped = checkpoints_dir("qwen2_5_vl") if settings.from_shipped == "vlm" else None
        flux = (out / "flux").absolute()
        phase = VlmPhase(run.parts / "vlm.partial", flux, shipped, run.seconds("vlm"), settings.seed)
        run.on_workers(train_vlm, phase)
        phase.out.rename(run.parts / "vlm")
    write_folder(out / "qwen2_5_vl", lambda folder: shutil.copytree(run.parts / "vlm", folder, dirs_exist_ok=True))
    run.report(f"done: {out}; copy its flux and qwen2_5_vl to pipelines/scenes/checkpoints to ship them")
    return out


def _encoders_and_flux(run: Pretraining) -> None:
    settings, parts = run.settings, run.parts
    if run.missing("text"):
        tokenizer, clip, t5 = train_text_encoders(run.seconds("text"), settings.seed, run.report)
        _save(parts / "text", tokenizer=tokenizer, clip=clip, t5=t5)
    if run.missing("vae"):
        _save(parts / "vae", vae=train_vae(run.seconds("vae"), settings.seed, run.report))
    if run.missing("flux"):
        goes_on = settings.from_shipped == "flux"
        shipped, lr = (checkpoints_dir("flux") / "transformer", 8e-4) if goes_on else (None, 1.5e-3)
        _train_flux(run, "flux", shipped, (lr, 5e-5), distil=False, wrong_captions=0.0)
        _measure(run, "on true captions", _pipeline(run, "flux", "vae"))
    if run.missing("decoder"):
        vae = AutoencoderKL.from_pretrained(parts / "vae" / "vae").requires_grad_(False)
        _save(parts / "decoder", vae=train_decoder(vae, run.seconds("decoder"), settings.seed + 2, run.report))
    if run.missing("weak"):
        _train_flux(run, "weak", parts / "flux" / "flux", (5e-4, 3e-5), True, settings.wrong_captions)
        _measure(run, "weakened", _pipeline(run, "weak"))
    if run.missing("objects"):
        seconds, folder = run.seconds("objects"), parts / "objects.run"
        trained = train_on_objects(_pipeline(run, "weak"), folder, seconds, settings.seed, run.report)
        _save(parts / "objects", flux=trained)
        shutil.rmtree(folder)


def take_shipped(run: Pretraining) -> None:
    """Lays shipped parts where this command would have left them, except for those that it is to make."""
    for part in SHIPPED.keys() - set(MADE[run.settings.from_shipped]):
        if not (run.parts / part).is_dir():
            _copy(SHIPPED[part], run.parts / part)


def _copy(shipped: dict[str, str], folder: Path) -> None:
    def write(partial: Path) -> None:
        for name, source in shipped.items():
            shutil.copytree(checkpoints_dir(source), partial / name, dirs_exist_ok=True)

    write_folder(folder, write)


def _train_flux(
    run: Pretraining, part: str, initial: Path | None, lr: tuple[float, float], distil: bool, wrong_captions: float
) -> None:
    settings, partial = run.settings, run.parts / f"{part}.partial"
    phase = FluxPhase(
        parts=run.parts, initial=initial, out=partial / "flux", seconds=run.seconds(part),
        seed=settings.seed + distil, lr=lr, distil=distil, wrong_captions=wrong_captions, compile=settings.compile,
    )  # fmt: skip
    run.on_workers(train_phase, phase)
    partial.rename(run.parts / part)


def _pipeline(run: Pretraining, part: str, vae: str = "decoder") -> FluxPipeline:
    transformer = FluxTransformer2DModel.from_pretrained(run.parts / part / "flux")
    return Encoders.load(run.parts, vae).pipeline(transformer)


def _measure(run: Pretraining, name: str, pipeline: FluxPipeline) -> None:
    for kind, long in (("short", False), ("long", True)):
        prompts = held_out_prompts(100, long, seed=5) * 3
        run.report(f"FLUX {name}, {kind} held-out prompts, 6 steps: {summary(judge(pipeline, prompts, seed=0))}")


def _save(folder: Path, **modules: PreTrainedTokenizerFast | torch.nn.Module) -> None:
    def write(partial: Path) -> None:
        for name, module in modules.items():
            module.save_pretrained(partial / name)  # pyright: ignore[reportCallIssue]

    write_folder(folder, write)
