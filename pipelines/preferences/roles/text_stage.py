"""Texts of a shard, encoded before its images, so that text encoders and transformer never share the GPU's memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

TextInputs = tuple[torch.Tensor, ...]
"""What a pipeline's `encode_prompt` returns of one text: embeddings [1, L, D] and mask [1, L] of each text encoder."""

_ENCODERS = ("text_encoder", "text_encoder_2")
_IMAGE_PARTS = ("transformer", "vae")
_INPUTS = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")


class TextStage:
    """Encodes texts with the encoders of a pipeline, which are in the host's memory while images are generated.

    The weights move twice for each shard. With offload=model they move for each batch of images.
    """

    def __init__(self, pipeline: Any, device: torch.device, negative: str | None) -> None:
        """Takes the text encoders out of `pipeline`, and places the rest on `device`.

        `negative`: the text of the second pass of a denoise step; None if there is none.
        """
        self._pipeline, self._device, self._negative = pipeline, device, negative
        self._encoders = {name: encoder for name in _ENCODERS if (encoder := getattr(pipeline, name, None))}
        self._encoded: dict[str, TextInputs] = {}
        self._announced: dict[str, None] = {}
        self._remove_encoders()
        self._place_image_parts(device)

    def announce(self, texts: Iterable[str]) -> None:
        """Says which texts the next shard needs, and forgets those of the shard before.

        They are encoded when the first of them is needed: images that are cached already need none.
        """
        self._announced, self._encoded = dict.fromkeys(texts), {}

    def inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The arguments by which the pipeline's call receives a batch of encoded texts, on the device."""
        negative = [] if self._negative is None else [self._negative]
        if missing := [text for text in dict.fromkeys([*texts, *negative]) if text not in self._encoded]:
            self._encode(dict.fromkeys([*missing, *(one for one in self._announced if one not in self._encoded)]))
        found = self._batch([self._encoded[text] for text in texts])
        for text in negative:
            others = self._batch([self._encoded[text]] * len(texts))
            found |= {f"negative_{name}": tensor for name, tensor in others.items()}
        return found

    @torch.no_grad()
    def _encode(self, texts: Iterable[str]) -> None:
        """Encodes each text alone, so that no padding depends on the others."""
        self._place_image_parts(torch.device("cpu"))
        try:
            for name, encoder in self._encoders.items():
                setattr(self._pipeline, name, encoder.to(self._device))
            for text in texts:
                parts = self._pipeline.encode_prompt([text], device=self._device)
                # Qwen-Image returns no mask if it is all ones
                embeddings = [embedding.cpu() for embedding in parts[::2]]
                masks = [
                    torch.ones(embedding.shape[:2], dtype=torch.long) if mask is None else mask.cpu()
                    for embedding, mask in zip(embeddings, parts[1::2], strict=True)
                ]
                pairs = zip(embeddings, masks, strict=True)
                self._encoded[text] = tuple(tensor for pair in pairs for tensor in pair)
        finally:  # also if the texts do not fit the memory
            self._remove_encoders()
            self._place_image_parts(self._device)

    def _remove_encoders(self) -> None:
        for name, encoder in self._encoders.items():
            setattr(self._pipeline, name, None)  # a pipeline takes its device from its parts
            encoder.to("cpu")
        _release(self._device)

    def _place_image_parts(self, device: torch.device) -> None:
        for name in _IMAGE_PARTS:
            getattr(self._pipeline, name).to(device)
        _release(self._device)

    def _batch(self, rows: Sequence[TextInputs]) -> dict[str, torch.Tensor]:
        """Texts of unequal length, padded with zeros that the masks exclude."""
        return {
            name: torch.cat([_padded(one, max(part.shape[1] for part in parts)) for one in parts]).to(self._device)
            for name, parts in zip(_INPUTS, zip(*rows, strict=True), strict=False)
        }


def _release(device: torch.device) -> None:
    """Gives the memory of moved weights back to the GPU, in blocks that other weights can use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _padded(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """[1, L, ...] -> [1, length, ...]."""
    missing = tensor.new_zeros(1, length - tensor.shape[1], *tensor.shape[2:])
    return torch.cat([tensor, missing], dim=1)
