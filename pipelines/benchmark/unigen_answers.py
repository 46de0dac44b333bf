"""The reply of a judge of UniGenBench++: `parse_evaluation_response` of the authors' eval/src/eval_common.py."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sized

from pipelines.benchmark.items import Misread, Parsed

_ANALYSIS = re.compile(r"<analysis>(.*?)</analysis>", re.DOTALL)
_SCORE = re.compile(r"<score>(.*?)</score>", re.DOTALL)


def parse_scores(reply: str, count: int) -> Parsed | Misread:
    """Reads the first analysis and the first score as Python literals; both must have `count` elements.

    Values are the scores as Python writes them, so that 1, 1.0, True and '1' remain different.
    """
    analysis_text, score_text = _ANALYSIS.search(reply), _SCORE.search(reply)
    if not analysis_text or not score_text:
        return Misread("the tags <analysis> and <score> are not both there")
    try:
        analysis: object = ast.literal_eval(analysis_text[1].strip())
        score: object = ast.literal_eval(score_text[1].strip())
    except (ValueError, SyntaxError) as error:
        return Misread(f"analysis or score is no list: {error}")
    except (TypeError, MemoryError, RecursionError) as error:
        return Misread(f"analysis or score is no list: {error}", official_crash=type(error).__name__)
    lengths = [len(each) if isinstance(each, Sized) else None for each in (analysis, score)]
    if None in lengths:  # the official script takes both lengths, if only for its warning
        return Misread("analysis or score is a number instead of a list", official_crash="TypeError")
    if lengths != [count, count]:
        return Misread(f"{lengths[0]} analyses and {lengths[1]} scores for {count} test points")
    kept = _reread(analysis, score)
    if kept is None:
        return Misread("analysis or score holds something that JSON cannot hold", official_crash="TypeError")
    values = tuple(repr(each) for each in score) if isinstance(score, list | tuple) else ()
    notes = tuple(str(each) for each in analysis) if isinstance(analysis, list | tuple) else ()
    return Parsed(values, notes, officially_lost=not kept)


def _reread(analysis: object, score: object) -> bool | None:
    """Whether the official script reads the scores back from its own file; None if it cannot write them.

    It writes JSON and reads a Python literal: true, false, null and Infinity are none, and the scores must be a list.
    """
    try:
        written = json.dumps({"analysis": analysis, "score": score}, ensure_ascii=False, indent=4)
    except TypeError:
        return None
    try:
        return isinstance(ast.literal_eval(written)["score"], list)
    except (ValueError, SyntaxError):
        return False
