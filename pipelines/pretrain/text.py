"""Trains the two tiny text encoders on text alone, then freezes them.

They learn to encode scene graphs. From every T5 token of a mention, a linear head predicts the colour and shape of the
object and, for each of the four directions, the colour of the object in that direction. From CLIP's pooled output, a
linear head predicts the same for all six colours. If the encoders are trained together with the image model instead,
they lose word order and with it every direction: FLUX's text positions are all zero, so it gets the order from the
encoders alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel, PreTrainedTokenizerFast, T5EncoderModel

from pipelines.pretrain.architecture import TEXT_TOKENS, WIDTH, clip_encoder, t5_encoder, word_tokenizer
from pipelines.scenes.grammar import COLORS, OPPOSITE, RELATIONS, SHAPES, Scene, spans, write_scene

COLOR_INDEX = {color: index for index, color in enumerate(COLORS)}
GRAPH_LABELS = (
    1 + len(SHAPES) + len(RELATIONS) * len(COLORS)
)  # per colour: present, shape, colour of the object in each direction


@dataclass(frozen=True)
class TextEncoders:
    """The tokenizer and the two encoders that FLUX needs."""

    tokenizer: PreTrainedTokenizerFast
    clip: CLIPTextModel
    t5: T5EncoderModel


def graph_labels(scene: Scene) -> np.ndarray:
    """Returns the scene graph as 0/1 labels with one row per colour, float32 [6, GRAPH_LABELS]."""
    labels = np.zeros((len(COLORS), GRAPH_LABELS), dtype=np.float32)
    for obj in scene.objects:
        row = labels[COLOR_INDEX[obj.color]]
        row[0] = row[1 + SHAPES.index(obj.shape)] = 1.0
    for parent, child, word in zip(scene.parents, range(1, len(scene.objects)), scene.words, strict=True):
        for subject, target, relation in ((parent, child, word), (child, parent, OPPOSITE[word])):
            own, other = (COLOR_INDEX[scene.objects[i].color] for i in (subject, target))
            labels[own, 1 + len(SHAPES) + RELATIONS.index(relation) * len(COLORS) + other] = 1.0
    return labels


def train_text_encoders(seconds: float, seed: int, report: Callable[[str], None]) -> TextEncoders:
    """Trains both encoders for `seconds` of wall clock. Returns them frozen."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer, clip, t5 = word_tokenizer(), clip_encoder(), t5_encoder()
    token_head = nn.Linear(WIDTH, len(COLORS) + GRAPH_LABELS)  # colour of the object, then its row of the graph
    graph_head = nn.Linear(WIDTH, len(COLORS) * GRAPH_LABELS)
    modules = nn.ModuleList([clip, t5, token_head, graph_head])
    optimizer = torch.optim.AdamW(modules.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    start, step = time.monotonic(), 0
    token_accuracy = graph_accuracy = 0.0
    while (elapsed := time.monotonic() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, step / 50) * (1.0 - 0.95 * elapsed / seconds)
        scenes = [write_scene(rng, int(rng.integers(2, 5))) for _ in range(64)]
        ids = tokenizer([s.text for s in scenes], padding="max_length", return_tensors="pt").input_ids  # [B, L]
        rows = np.stack([graph_labels(s) for s in scenes])  # [B, 6, GRAPH_LABELS]
        mentioned, own_labels = _mention_labels(scenes, rows)
        graph = torch.from_numpy(rows)
        token_logits = token_head(t5(ids)[0])[mentioned]
        graph_logits = graph_head(clip(ids).pooler_output).view_as(graph)
        loss = F.binary_cross_entropy_with_logits(token_logits, own_labels)
        loss = loss + F.binary_cross_entropy_with_logits(graph_logits, graph)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 50 == 0:
            token_accuracy = ((token_logits > 0) == own_labels.bool()).all(-1).float().mean().item()
            graph_accuracy = ((graph_logits > 0) == graph.bool()).all(-1).all(-1).float().mean().item()
            report(
                f"text encoders: optimizer step {step}, accuracy of T5 tokens {token_accuracy:.3f}, of CLIP graphs "
                f"{graph_accuracy:.3f}"
            )
    return TextEncoders(tokenizer, clip.eval().requires_grad_(False), t5.eval().requires_grad_(False))


def _mention_labels(scenes: list[Scene], graph: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns which tokens mention an object (bool [B, L]) and the labels of these tokens [N, 6 + GRAPH_LABELS]."""
    mentioned = np.zeros((len(scenes), TEXT_TOKENS), dtype=bool)
    own_color = np.eye(len(COLORS), dtype=np.float32)
    labels: list[np.ndarray] = []
    for row, scene in enumerate(scenes):
        for obj, (start, stop) in zip(scene.objects, spans(scene), strict=True):
            mentioned[row, start:stop] = True
            color = COLOR_INDEX[obj.color]
            labels += [np.concatenate([own_color[color], graph[row, color]])] * (stop - start)
    return torch.from_numpy(mentioned), torch.from_numpy(np.stack(labels))
