"""Attention of Qwen2.5-VL's vision tower in one call where the library makes one for each window.

The library's `sdpa` path cuts a batch into windows and calls attention for each of them: at 448 x 448 sixteen calls an
image and layer, each after a transfer from the GPU. Windows of equal length fit one batched call.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)


class EqualWindowAttention(Qwen2_5_VLVisionAttention):
    """The library's layer, with one call if all windows have the same length. Only for `sdpa`."""

    _lengths = WeakTensorKeyDictionary()
    """The bounds of windows -> their common length, or 0. All layers get the same tensor, so it is read once."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states [N, D] of all patches, cu_seqlens [windows + 1]: the first patch of each window, and N."""
        length = self._common_length(cu_seqlens) if position_embeddings is not None else 0
        if not length:
            return super().forward(hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs)
        patches = hidden_states.shape[0]
        query, key, value = self.qkv(hidden_states).view(patches, 3, self.num_heads, -1).unbind(1)
        cos, sin = cast(tuple[Tensor, Tensor], position_embeddings)
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        query, key, value = (
            each.view(patches // length, length, self.num_heads, -1).transpose(1, 2) for each in (query, key, value)
        )  # [windows, heads, length, d] each
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        return self.proj(mixed.transpose(1, 2).reshape(patches, -1))

    def _common_length(self, bounds: Tensor) -> int:
        if bounds.device.type == "meta":
            return 0
        if bounds not in self._lengths:
            lengths = set((bounds[1:] - bounds[:-1]).tolist())
            self._lengths[bounds] = lengths.pop() if len(lengths) == 1 else 0
        return cast(int, self._lengths[bounds])


def use_equal_windows(tower: Qwen2_5_VisionTransformerPretrainedModel) -> None:
    """Replaces the attention of the vision tower's layers if they use `sdpa`. Weights and their names stay the same."""
    config = cast(Any, tower.config)
    if config._attn_implementation != "sdpa":
        return
    for block in tower.blocks:
        cast(Any, block).attn.__class__ = EqualWindowAttention
