"""Answers that are yes or no: the parser of TIIF-Bench, and what a free answer means."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.benchmark.items import JudgeCall, Misread, Parsed, Question

_LINE = re.compile(r"^(yes|no)\b", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+")

OWN_TEMPLATE = (
    "Look closely at the image and answer these questions about it with yes or no.\n\nQuestions:\n{questions}\n\n"
    'Write one line for each question, in the same order. Begin each line with "yes" or "no", then give the reason in '
    "a few words. Write nothing else: no numbers, no headings, no empty answers. The number of lines must be {count}."
)
"""Our own wording, for use where the published one is not at hand."""


def parse_lines(reply: str, count: int) -> Parsed | Misread:
    """Reads one answer from each line that begins with yes or no; other lines are skipped.

    TIIF-Bench's `extract_yes_no` (eval/eval_with_vlm.py): the number of answers must equal that of the questions.
    """
    lines = [line.strip() for line in reply.strip().split("\n")]
    found = [(match[1].lower(), line) for line in lines if (match := _LINE.match(line))]
    if len(found) != count:
        return Misread(f"{len(found)} lines begin with yes or no, but {count} questions were asked")
    return Parsed(tuple(value for value, _ in found), tuple(line for _, line in found))


def meaning(answer: str) -> str:
    """Returns "yes" or "no" if an answer begins with that word, whatever its case and marks around it; otherwise ""."""
    word = _WORD.search(answer.lower())
    return word[0] if word and word[0] in ("yes", "no") else ""


def ask_all(questions: Sequence[Question], template: str, system: str, options: dict[str, float | int]) -> JudgeCall:
    """One call with all questions, one a line. `template` holds {questions} and may hold {count}."""
    text = "\n".join(question.text.strip() for question in questions)
    return JudgeCall(
        template.replace("{count}", str(len(questions))).replace("{questions}", text), system, options=options
    )
