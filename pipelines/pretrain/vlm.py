"""Teaches the tiny Qwen2.5-VL to answer questions about scenes. It becomes no reward model yet."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from actors.optim.torch_engine import average_gradients
from pipelines.pretrain.base_samples import sample_base_images
from pipelines.pretrain.vlm_model import build_model, build_tokenizer, save
from pipelines.pretrain.vqa_batches import ChatBatch, VqaBatches
from pipelines.pretrain.workers import Report, broadcast_progress, set_up_worker

PICTURES = 16  # a step and worker
DRAWINGS = 4000  # that FLUX draws for a worker, at most
DRAWINGS_PER_SECOND = 10  # of the phase, an eighth of which that takes
LR = 5e-3
RELATIONAL = (0.3, 0.8)  # share of questions about relations, which build on finding objects: at first, and later


@dataclass(frozen=True)
class VlmPhase:
    """What every worker is given."""

    out: Path  # where rank 0 saves the transformers directory
    flux: Path  # the finished FluxPipeline directory, which draws a share of the pictures
    initial: Path | None  # a transformers directory to go on from; None: from scratch
    seconds: float
    seed: int


def train_vlm(loop: dict[str, Any]) -> None:
    """A Ray Train worker's part of `loop["phase"]`; `loop["lines"]` is told of progress."""
    phase, (rank, report) = loop["phase"], set_up_worker(loop)
    model = fit_vlm(phase, rank, report)
    if rank == 0:
        measure(model, phase, report)
        save(model, build_tokenizer(), phase.out)


def fit_vlm(phase: VlmPhase, rank: int, report: Report) -> Qwen2_5_VLForConditionalGeneration:
    """Trains with Muon (hidden matrices) and AdamW (the rest); the rate falls linearly in the second half.

    A model that goes on from earlier weights starts at half the rate, with the questions of the later part.
    """
    torch.manual_seed(phase.seed)
    tokenizer = build_tokenizer()
    model = _open(phase.initial) if phase.initial else build_model(tokenizer)
    vae = AutoencoderKL.from_pretrained(phase.flux / "vae").requires_grad_(False).eval()
    start, seed = time.monotonic(), 1000 * (phase.seed + bool(phase.initial)) + rank
    drawings = sample_base_images(phase.flux, min(DRAWINGS, int(DRAWINGS_PER_SECOND * phase.seconds)), seed)
    chats = VqaBatches(tokenizer, seed, vae=vae, drawings=drawings)
    peak = LR / 2 if phase.initial else LR
    matrices, others = _split_parameters(model)
    optimizers = (
        torch.optim.Muon(matrices, lr=LR, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LR, betas=(0.9, 0.98), weight_decay=0.0),
    )
    step, seen = 0, 0.0
    while (progress := broadcast_progress((time.monotonic() - start) / phase.seconds)) < 1.0:
        rate = peak * min(1.0, (step + 1) / 50) * min(1.0, 0.02 + (1.0 - progress) / 0.5)
        first, later = RELATIONAL
        relational = later if phase.initial else min(later, first + 1.5 * progress)
        loss, right = answer_loss(model, chats.draw(PICTURES, relational)[0])
        loss.backward()
        average_gradients(list(model.parameters()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + 0.05 * (right.float().mean().item() - seen)
        if step % 250 == 0:
            report(f"step {step}, {progress:.0%} of {phase.seconds:.0f} s, answer tokens right {seen:.3f}")
    return model.eval()


def measure(model: Qwen2_5_VLForConditionalGeneration, phase: VlmPhase, report: Report) -> None:
    """Reports the share of right answers about fresh pictures of each kind."""
    tokenizer, seed = build_tokenizer(), phase.seed + 1_000_003
    vae = AutoencoderKL.from_pretrained(phase.flux / "vae").requires_grad_(False).eval()
    for name, fresh in (
        ("rendered", VqaBatches(tokenizer, seed)),
        ("through the autoencoder", VqaBatches(tokenizer, seed, vae=vae)),
        ("drawn by FLUX", VqaBatches(tokenizer, seed, drawings=sample_base_images(phase.flux, 512, seed), drawn=1.0)),
    ):
        accuracy = answer_accuracy(model, fresh, 512)
        report(f"answers right, {name}: " + ", ".join(f"{kind} {share:.3f}" for kind, share in accuracy.items()))


def _open(folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def answer_loss(model: Qwen2_5_VLForConditionalGeneration, batch: ChatBatch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the answers' tokens, and for each such token whether it was the most probable."""
    hidden = model.model(
        input_ids=batch.input_ids, pixel_values=batch.pixel_values, image_grid_thw=batch.image_grid_thw,
        attention_mask={"full_attention": batch.mask}, position_ids=batch.position_ids, use_cache=False,
    ).last_hidden_state  # fmt: skip
    targets = batch.labels[:, 1:]
    asked = targets != -100
    logits = model.lm_head(hidden[:, :-1][asked])  # [answer tokens, vocabulary]
    return F.cross_entropy(logits, targets[asked]), logits.argmax(-1) == targets[asked]


def answer_accuracy(model: Qwen2_5_VLForConditionalGeneration, chats: VqaBatches, pictures: int) -> dict[str, float]:
    """Share of wholly right answers to fresh questions, by the question's first word, and over all."""
    totals: dict[str, list[int]] = {}
    with torch.inference_mode():
        for _ in range(math.ceil(pictures / 64)):
            batch, asked = chats.draw(64)
            right = iter(answer_loss(model, batch)[1].tolist())
            for pair in (pair for pairs in asked for pair in pairs):
                tokens = [next(right) for _ in range(len(pair.answer.split()) + 1)]
                if pair.question.endswith("the objects"):
                    continue  # any order of such a list is right
                words = pair.question.split()
                compound = words[0] == "is" and ("and" in words or "that" in words)
                for kind in ("is, two relations" if compound else words[0], "all"):
                    entry = totals.setdefault(kind, [0, 0])
                    entry[0] += all(tokens)
                    entry[1] += 1
    return {kind: good / count for kind, (good, count) in totals.items()}


def _split_parameters(model: Qwen2_5_VLForConditionalGeneration) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden matrices, which Muon trains, and the rest: embeddings, output layer, patch convolution, norms, biases."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if hidden else others).append(parameter)
    return matrices, others
