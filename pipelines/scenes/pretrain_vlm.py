"""Makes the tiny Qwen2.5-VL that `scenes` ships: the real classes, 0.5 M parameters, pretrained to answer questions.

Each picture comes with several questions. They share the picture's tokens and do not see each other (block attention,
positions restart after the picture), so one forward is as many single-turn chats.
Axes: B pictures, L tokens.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from actors.spatialscore.processing import equal_patches
from pipelines.scenes.grammar import COLORS, RELATIONS, SHAPES
from pipelines.scenes.questions import APART, NUMBERS, SQUARES, QuestionAnswer, ask, scatter
from pipelines.scenes.render import GRID, SIZE, Placement, render

PATCH, MERGE = 8, 2
REUSE, POOL = 3, 1500  # drawing costs as much as a third of a training step
VOCABULARY = 128  # rows; the ones after the words are spare, for tokens that a user of the checkpoint adds
SPECIAL = ("<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|image_pad|>", "<|video_pad|>")  # fmt: skip
WORDS = (
    "user", "assistant", "system", "a", "an", "the", "is", "are", "and", "that", "there", "where", "from", "what",
    "how", "many", "in", "shape", "list", "object", "objects", "column", "row", "yes", "no", ",", ".", "?",
    APART, *NUMBERS, *(str(n) for n in range(1, GRID + 1)), *COLORS, *SHAPES, *(f"{shape}s" for shape in SHAPES),
    *dict.fromkeys(word for relation in RELATIONS for word in relation.split()), *SQUARES.values(), "compare",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class ChatBatch:
    """Pictures with their packed questions."""

    input_ids: Tensor  # [B, L]
    labels: Tensor  # [B, L]; -100 where nothing is asked of the model
    position_ids: Tensor  # [3, B, L]
    mask: Tensor  # [B, 1, L, L] bool
    pixel_values: Tensor
    image_grid_thw: Tensor


@dataclass(frozen=True)
class Picture:
    """A drawn picture and the truth about it."""

    placements: tuple[Placement, ...]
    image: np.ndarray  # uint8 [SIZE, SIZE, 3]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with Qwen's special tokens and a chat template of Qwen's form."""
    ids = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    base = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    base.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    base.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    base.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base, unk_token="<unk>", pad_token="<|endoftext|>", eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL[2:]), clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Qwen2-VL's image processor for 64 x 64 pixels: 8 x 8 patches, 4 x 4 image tokens."""
    size = {"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE}
    return Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2, size=size)


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """The untrained network. Small width needs a large initializer; a small grid needs a small rope_theta."""
    vocabulary = tokenizer.get_vocab()
    token = {name: vocabulary[name] for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4,
            "num_attention_heads": 3, "num_key_value_heads": 3, "max_position_embeddings": 512,
            "initializer_range": 0.1, "bos_token_id": token["<|endoftext|>"], "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"], "use_cache": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1] * 16},
        },
        vision_config={
            "depth": 1, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "patch_size": PATCH,
            "spatial_merge_size": MERGE, "temporal_patch_size": 2, "window_size": SIZE, "out_hidden_size": 96,
            "fullatt_block_indexes": [0], "initializer_range": 0.1,
        },
        image_token_id=token["<|image_pad|>"], video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"], vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=False,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config)


class Chats:
    """An endless stream of pictures with questions. A picture is drawn afresh and met about `REUSE` times in all."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, questions: int = 8) -> None:
        self._rng = np.random.default_rng(seed)
        self._vocabulary = tokenizer.get_vocab()
        self._processor = build_image_processor()
        self._questions = questions
        self._pool: list[Picture] = []

    def draw(self, count: int, relational: float = 0.6) -> tuple[ChatBatch, list[list[QuestionAnswer]]]:
        """A batch of `count` pictures, and the questions in its rows, a share of them `relational`."""
        fresh = [self._paint() for _ in range(math.ceil(count / REUSE))]
        self._pool = [*fresh, *self._pool][:POOL]
        again = [self._pool[i] for i in self._rng.permutation(len(self._pool))[: count - len(fresh)]]
        pictures = [*fresh, *again, *(self._paint() for _ in range(count - len(fresh) - len(again)))]
        asked = [ask(picture.placements, self._questions, self._rng, relational) for picture in pictures]
        pixel_values, grid = equal_patches(self._processor, np.stack([picture.image for picture in pictures]))
        return self._pack(asked, pixel_values, grid), asked

    def _paint(self) -> Picture:
        placements = scatter(self._rng)
        return Picture(placements, degrade(render(placements, self._rng), self._rng))

    def ids(self, text: str) -> list[int]:
        """Ids of words separated by blanks."""
        return [self._vocabulary[word] for word in text.split()]

    def _pack(self, asked: list[list[QuestionAnswer]], pixel_values: Tensor, grid: Tensor) -> ChatBatch:
        picture = self.ids("<|im_start|> user <|vision_start|>" + " <|image_pad|>" * GRID**2 + " <|vision_end|>")
        rows = [[self._block(pair) for pair in pairs] for pairs in asked]
        length = len(picture) + max(sum(len(ids) for ids, _ in row) for row in rows)
        ids = np.zeros((len(rows), length), dtype=np.int64)
        labels = np.full_like(ids, -100)
        positions = np.zeros((3, *ids.shape), dtype=np.int64)
        block = np.full_like(ids, -1)
        positions[:, :, : len(picture)] = _picture_positions(len(picture))[:, None]
        ids[:, : len(picture)], block[:, : len(picture)] = picture, 0
        for r, row in enumerate(rows):
            at = len(picture)
            for number, (tokens, answer_at) in enumerate(row, start=1):
                end = at + len(tokens)
                ids[r, at:end], block[r, at:end] = tokens, number
                labels[r, at + answer_at : end] = tokens[answer_at:]
                positions[:, r, at:end] = 3 + GRID + 1 + np.arange(len(tokens))
                at = end
        return ChatBatch(
            torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(positions),
            _block_mask(torch.from_numpy(block)), pixel_values, grid,
        )  # fmt: skip

    def _block(self, pair: QuestionAnswer) -> tuple[list[int], int]:
        """Token ids of one question and answer, and where the answer starts."""
        question = self.ids(f"{pair.question} <|im_end|> <|im_start|> assistant")
        return question + self.ids(f"{pair.answer} <|im_end|>"), len(question)


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the pictures a little blurred or noisy, as decoded latents are."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.35:
        pixels = ndimage.gaussian_filter(pixels, (*[rng.uniform(0.3, 1.0)] * 2, 0))
    if rng.random() < 0.35:
        pixels += rng.normal(0.0, rng.uniform(1.0, 8.0), pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


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


def answer_accuracy(model: Qwen2_5_VLForConditionalGeneration, chats: Chats, pictures: int) -> dict[str, float]:
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


def pretrain_vlm(
    out: Path, minutes: float, seed: int = 0, batch: int = 16, lr: float = 5e-3, initial: Path | None = None
) -> float:
    """Trains for `minutes` of wall clock, from scratch or from `initial`, and saves a transformers directory to `out`.

    First mostly single objects are asked for, then mostly relations, which build on finding objects.
    Returns the share of right answers to questions about fresh pictures.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    if initial is not None:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(initial, dtype=torch.float32).train()
    chats = Chats(tokenizer, seed)
    matrices, others = _split_parameters(model)
    optimizers = (
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    )
    start, step, seen = time.monotonic(), 0, 0.0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1.0:
        rate = lr * min(1.0, (step + 1) / 50) * min(1.0, 0.02 + (1.0 - progress) / 0.5)
        relational = 0.8 if initial is not None else min(0.8, 0.3 + 1.5 * progress)
        loss, right = answer_loss(model, chats.draw(batch, relational)[0])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + 0.05 * (right.float().mean().item() - seen)
        if step % 50 == 0:
            print(f"vlm step {step}  {progress:4.0%}  loss {loss.item():.3f}  tokens right {seen:.3f}", flush=True)
        if step % 500 == 0:
            _report(model, chats)
    accuracy = _report(model, Chats(tokenizer, seed + 1_000_003))
    save(model, tokenizer, out)
    return accuracy


def save(model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes model, tokenizer and image processor as one transformers directory."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    build_image_processor().save_pretrained(out)


def _report(model: Qwen2_5_VLForConditionalGeneration, chats: Chats) -> float:
    accuracy = answer_accuracy(model, chats, 256)
    print("vlm answers right: " + "  ".join(f"{kind} {share:.3f}" for kind, share in accuracy.items()), flush=True)
    return accuracy["all"]


def _split_parameters(model: Qwen2_5_VLForConditionalGeneration) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden matrices, which Muon trains, and the rest: embeddings, output layer, patch convolution, norms, biases."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if hidden else others).append(parameter)
    return matrices, others


def _picture_positions(length: int) -> np.ndarray:
    """M-RoPE positions of the picture's part  # [3, length]: 3 tokens, a GRID x GRID image, 1 token."""
    positions = np.broadcast_to(np.arange(length), (3, length)).copy()
    positions[:, 3:-1] = 3
    positions[1, 3:-1] += np.repeat(np.arange(GRID), GRID)
    positions[2, 3:-1] += np.tile(np.arange(GRID), GRID)
    positions[:, -1] = 3 + GRID
    return positions


def _block_mask(block: Tensor) -> Tensor:
    """Causal attention within a block and to the picture, block 0  # [B, 1, L, L] bool."""
    same = (block[:, :, None] == block[:, None, :]) | (block[:, None, :] == 0)
    return (same & torch.ones(block.shape[1], block.shape[1], dtype=torch.bool).tril())[:, None]
