"""Table 1 of the paper (arXiv 2602.24233): pairwise accuracy of each model on the paper's benchmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """One model's published accuracies."""

    model: str
    one_change: float  # pairs with 1 perturbed relation
    more_changes: float  # pairs with 2 or 3
    overall: float


TABLE_1: tuple[PaperRow, ...] = (
    PaperRow("ImageReward", 0.439, 0.513, 0.479),
    PaperRow("PickScore", 0.461, 0.551, 0.509),
    PaperRow("HPSv2.1", 0.433, 0.491, 0.463),
    PaperRow("VQAScore", 0.567, 0.638, 0.603),
    PaperRow("UnifiedReward", 0.583, 0.627, 0.605),
    PaperRow("HPSv3", 0.606, 0.697, 0.652),
    PaperRow("Qwen2.5-VL-7B", 0.572, 0.632, 0.602),
    PaperRow("Qwen2.5-VL-32B", 0.644, 0.724, 0.685),
    PaperRow("Qwen2.5-VL-72B", 0.711, 0.816, 0.764),
    PaperRow("GPT-5", 0.855, 0.924, 0.890),
    PaperRow("Gemini-2.5-Pro", 0.933, 0.968, 0.951),
    PaperRow("SpatialScore", 0.939, 0.978, 0.958),
)
