"""UniGenBench++, English prompts: one judgement of all test points for each of four images (arXiv 2510.18701).

"UNIGENBENCH", Copyright (C) 2025 Tencent, is published under CC BY 4.0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from conf import UserError
from pipelines.benchmark.items import (
    BenchmarkItem,
    JudgeCall,
    JudgeForm,
    Judgement,
    Misread,
    Parsed,
    Part,
    Problem,
    Question,
    ScoreProtocol,
    Source,
    Wording,
)
from pipelines.benchmark.judgements import Judgements
from pipelines.benchmark.published_files import check_file, first_existing, read_csv, sha256_of
from pipelines.benchmark.scores import Summary
from pipelines.benchmark.unigen_answers import parse_scores
from pipelines.benchmark.unigen_scores import cells, count_lost, is_layout
from pipelines.benchmark.wordings import constants_of, wording_of

Length = Literal["short", "long"]

IMAGES = 4
COLUMNS = ("index", "prompt_en", "sub_dims_en")
SCRIPT = "eval/src/eval_common.py"
FILES: dict[Length, str] = {"short": "test_prompts_en.csv", "long": "test_prompts_en_long.csv"}
SHA256: dict[Length, str] = {
    "short": "f82e8ce854985ef963378eaaf8ce12f2e3a57dd6f53e1aea84a61fbeadfe4459",
    "long": "5d2c3d642cc4923504b662ad15b425c2d161a137884701881e00c2691a697253",
}
PATCHED_ROW = 509
PATCH = ('"Grammar - Negation" "Attribute - Color"', '"Grammar - Negation", "Attribute - Color"')
"""Row 509 of the published long file lacks a comma. The official evaluation stops there before its first call."""
PATCH_NOTE = "row 509 of the long prompts is patched: the official evaluation stops there"
SOURCE = Source(
    "CodeGoat24/UniGenBench",
    "49d0bcebb0b9418d975d3957c2fee10f34811d14",
    (*(f"data/{name}" for name in FILES.values()), SCRIPT, "License.txt"),
    "CC BY 4.0 (UNIGENBENCH, Copyright (C) 2025 Tencent)",
)
GET = SOURCE.how_to_get
OWN_TEMPLATE = """You check whether an image shows what its prompt asks for. The prompt of the image is: 「{prompt}」

Judge these checkpoints, each on its own: {testpoint}

{explanation}

{test_explanation}

Describe only what is visible in the image. Do not guess, and do not interpret. For each checkpoint write a short
analysis and a score: 1 if the image shows what the checkpoint requires, 0 if it does not.

Answer in exactly this form, with one element for each checkpoint and in the same order:

<description>
<prompt>{prompt}</prompt>
<checkpoint>{testpoint}</checkpoint>
<analysis>["analysis of the first checkpoint", "…"]</analysis>
<score>[0 or 1, …]</score>
</description>
"""
"""Our own wording, in the published form of answer."""


@dataclass(frozen=True)
class UniGenBench:
    """UniGenBench++, the short or the long prompts."""

    length: Length = "short"
    title: str = "UniGenBench++"
    folder: str = "unigenbench"
    source: Source = SOURCE
    form: JudgeForm = "chat"

    @property
    def name(self) -> str:
        """Unigenbench or unigenbench_long."""
        return "unigenbench" if self.length == "short" else "unigenbench_long"

    def check(self, folder: Path) -> Sequence[Problem]:
        """What is wrong with the file of prompts."""
        return check_file(self._file(folder), SHA256[self.length], GET)

    def load(self, folder: Path, part: Part) -> tuple[BenchmarkItem, ...]:
        """Reads the prompts; spatial: those with a test point about layout. Row 509 of the long file is patched."""
        path = self._file(folder)
        rows = read_csv(path, COLUMNS, GET)
        published = self.length == "long" and sha256_of([path]) == SHA256["long"]
        items: list[BenchmarkItem] = []
        for number, row in enumerate(rows):
            text = row["sub_dims_en"]
            if published and row["index"] == str(PATCHED_ROW):
                text = text.replace(*PATCH)
            items.append(_item(row, text, self.length, f"{path}, row {number}"))
        if not items:
            raise UserError(f"{path} has no rows: {GET}")
        names = [item.id for item in items]
        if len(set(names)) < len(names):
            raise UserError(f"{path} must have every index once: {GET}")
        spatial = [item for item in items if any(is_layout(question.category) for question in item.questions)]
        return tuple(items if part == "all" else spatial)

    def wording(self, folder: Path) -> Wording:
        """The published wording and definitions, if the authors' script lies in the clone; else ours."""
        constants = constants_of(folder / SCRIPT)
        template, definitions = constants.get("SYSTEM_PROMPT_EN_TEMPLATE"), constants.get("EXPLANATION_DICT_EN")
        if isinstance(template, str) and isinstance(definitions, dict):
            known = {str(name): str(text) for name, text in cast("dict[object, object]", definitions).items()}
            return wording_of((template,), f"published, {SCRIPT} (CC BY 4.0)", definitions=known)
        return wording_of((OWN_TEMPLATE,), f"of this project, as {SCRIPT} is not in the folder of UniGenBench++")

    def ask(self, item: BenchmarkItem, image: int, attempt: int, wording: Wording) -> JudgeCall:
        """The prompt, the test points, their definitions and what each means in this prompt: `build_system_prompt`."""
        points = [question.category for question in item.questions]
        defined = "".join(f"\n{point}: {wording.definitions.get(point, point)}" for point in points)
        described = "".join(f"\n{question.category}: {question.text}" for question in item.questions)
        values = {
            "prompt": item.prompt,
            "testpoint": str(points),
            "explanation": f"Checkpoints Defination:「{defined}\n」",
            "test_explanation": f"Checkpoints Description:「{described}\n」",
        }
        return JudgeCall(wording.templates[0].format(**values), options={"max_tokens": 8192})

    def parse(self, item: BenchmarkItem, reply: str) -> Parsed | Misread:
        """One score for each test point."""
        return parse_scores(reply, len(item.questions))

    def summarize(
        self, items: Sequence[BenchmarkItem], judgements: Sequence[Judgement], protocol: ScoreProtocol
    ) -> Summary:
        """Accuracies by test point and by primary dimension."""
        known = Judgements.of(items, judgements)
        lost = count_lost(known) if protocol == "official" else {}
        stops = protocol == "official" and any(item.length == "long" and item.index == PATCHED_ROW for item in items)
        return known.summary(self.name, cells(known, protocol), lost, [PATCH_NOTE] if stops else [])

    def _file(self, folder: Path) -> Path:
        name = FILES[self.length]
        return first_existing(folder, f"data/{name}", name)


def _item(row: dict[str, str], text: str, length: Length, place: str) -> BenchmarkItem:
    try:
        index = int(row["index"])
        values: object = json.loads(text)
    except ValueError as error:
        raise UserError(f"{place} must have a number as index and JSON as sub_dims_en, {error}: {GET}") from error
    found = cast("dict[str, object]", values) if isinstance(values, dict) else {}
    points, descriptions = _strings(found, "Testpoints"), _strings(found, "Testpoint Description")
    if not points or points != [each for each in points if each] or len(points) > len(descriptions):
        raise UserError(f"{place} must have a description for each of its Testpoints, got {text:.80}: {GET}")
    questions = tuple(
        Question(str(number), descriptions[number], "1", point, row=index) for number, point in enumerate(points)
    )
    return BenchmarkItem(str(index), row["prompt_en"], questions, IMAGES, length=length, index=index)


def _strings(values: dict[str, object], key: str) -> list[str]:
    found = values.get(key)
    return [str(each) for each in cast("list[object]", found)] if isinstance(found, list) else []
