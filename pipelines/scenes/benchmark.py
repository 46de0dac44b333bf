"""Held-out prompts of the scenes world as files of the benchmarks, in the formats of their authors.

DPG-Bench: an `entity - whole` question for each object, a `relation - spatial` one for each relation. TIIF-Bench: types
2d_spatial_relation and color+2d; the short prompt has two objects, the long one three. UniGenBench++: test points about
layout, colour and shape. GenEval: tags position and color_attr. `more_benchmarks.py` has SpatialGenEval and GenEval 2.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.files import write_file
from actors.types import Prompt, Relation, objects_of
from pipelines.scenes.grammar import COLORS, RELATIONS, SHAPES, Scene, SceneObject, is_held_out, parse
from pipelines.scenes.more_benchmarks import geneval2_rows, spatialgeneval_rows
from pipelines.scenes.questions import ask_color, ask_object, ask_relation, ask_shape, state

DPG_COLUMNS = (
    "item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple",
    "question_natural_language",
)  # fmt: skip
LAYOUT = "Entity Layout - Two-Dimensional Space"
TIIF_SETS = ("test", "testmini")
COLOR_EVERY = 4  # every fourth of GenEval's prompts is repeated for its colours


@dataclass(frozen=True)
class Pair:
    """A short and a long scene with the same first relation."""

    short: Scene
    long: Scene


def write_benchmarks(root: Path, prompts: Sequence[Prompt]) -> None:
    """Writes the files of dpg, tiif, unigenbench, geneval, spatialgeneval and geneval2 into such folders below `root`.

    Only prompts with relations are used; TIIF-Bench needs prompts of the scene grammar. Raises ValueError if there is
    no prompt with a relation.
    """
    usable = [prompt for prompt in prompts if prompt.relations]
    if not usable:
        raise ValueError("benchmarks of the scenes world need a prompt with a relation")
    _write(root / "dpg" / "dpg_bench.csv", _csv(DPG_COLUMNS, _dpg_rows(usable)))
    for part in TIIF_SETS:
        for kind in ("2d_spatial_relation", "color+2d"):
            pairs = pairs_of(usable) if kind == "2d_spatial_relation" else [*filter(_has_two_shapes, pairs_of(usable))]
            data = root / "tiif" / "data"
            _write(
                data / f"{part}_prompts" / f"{kind}_prompts.jsonl", _lines(_tiif_prompt(kind, each) for each in pairs)
            )
            _write(
                data / f"{part}_eval_prompts" / f"{kind}_eval_prompts.jsonl",
                _lines(_tiif_questions(kind, each.short) for each in pairs),
            )
    short = [prompt for prompt in usable if len(prompt.relations) == 1]
    long = [prompt for prompt in usable if len(prompt.relations) > 1]
    unigen = root / "unigenbench" / "data"
    columns = ("index", "prompt_en", "sub_dims_en")
    _write(unigen / "test_prompts_en.csv", _csv(columns, _unigen_rows(short or usable)))
    _write(unigen / "test_prompts_en_long.csv", _csv(columns, _unigen_rows(long or usable)))
    _write(root / "geneval" / "prompts" / "evaluation_metadata.jsonl", _lines(_geneval_rows(usable)))
    names = [*(f"{color} {shape}" for color in COLORS for shape in SHAPES), *SHAPES]
    _write(root / "geneval" / "prompts" / "object_names.txt", "\n".join(names) + "\n")
    _write(root / "spatialgeneval" / "eval" / "SpatialGenEval_T2I_Prompts.jsonl", _lines(spatialgeneval_rows(usable)))
    _write(root / "geneval2" / "geneval2_data.jsonl", _lines(geneval2_rows(usable)))


def dpg_id(prompt: Prompt) -> str:
    """The item id of a prompt: with letters, so that pandas reads no number."""
    return f"scenes_{prompt.id}".replace(".", "_")


def pairs_of(prompts: Iterable[Prompt]) -> list[Pair]:
    """Pairs of held-out scenes: a prompt of two objects gets a third one, of a longer one the first two are kept."""
    pairs: dict[str, Pair] = {}
    for prompt in prompts:
        try:
            scene = parse(prompt.text)
        except ValueError:
            continue  # not of the scene grammar
        short = Scene(scene.objects[:2], scene.words[:1], scene.parents[:1])
        if short.words and is_held_out(short.relations):
            pairs.setdefault(short.text, Pair(short, scene if len(scene.words) > 1 else _extended(short)))
    return list(pairs.values())


def _extended(scene: Scene) -> Scene:
    """A scene with one more object, related to the head. Which one follows from the text."""
    number = sum(map(ord, scene.text))
    colors = [color for color in COLORS if color not in {obj.color for obj in scene.objects}]
    added = SceneObject(colors[number % len(colors)], SHAPES[number % len(SHAPES)])
    return Scene((*scene.objects, added), (*scene.words, RELATIONS[number % len(RELATIONS)]), (*scene.parents, 0))


def _has_two_shapes(pair: Pair) -> bool:
    return len({obj.shape for obj in pair.short.objects}) == len(pair.short.objects)


def _dpg_rows(prompts: Iterable[Prompt]) -> Iterable[Sequence[str]]:
    """The first row is skipped by the official script."""
    yield ("skipped", "", "", "1", "0", "global", "", "global - (skipped)", "Is this row skipped?")
    for prompt in prompts:
        names = objects_of(prompt.relations)
        start = (dpg_id(prompt), prompt.text, ", ".join(names))
        for number, name in enumerate(names, start=1):
            yield (*start, str(number), "0", "entity", "whole", f"entity - whole ({name})", ask_object(name))
        for number, each in enumerate(prompt.relations, start=len(names) + 1):
            needs = f"{names.index(each.subject) + 1},{names.index(each.object) + 1}"
            content = f"relation - spatial ({each.subject}, {each.object}, {each.relation})"
            yield (*start, str(number), needs, "relation", "spatial", content, ask_relation(each))


def _tiif_prompt(kind: str, pair: Pair) -> dict[str, object]:
    return {"type": kind, "short_description": pair.short.text, "long_description": pair.long.text}


def _tiif_questions(kind: str, scene: Scene) -> dict[str, object]:
    """Questions of the short prompt, which hold for the long one, too."""
    if kind == "color+2d":
        asked = [ask_shape(obj.shape) for obj in scene.objects]
        asked += [ask_color(obj.shape, obj.color) for obj in scene.objects]
    else:
        asked = [ask_object(obj.name) for obj in scene.objects]
    asked += [ask_relation(each) for each in scene.relations]
    return {"type": kind, "yn_question_list": asked, "yn_answer_list": ["yes"] * len(asked)}


def _unigen_rows(prompts: Iterable[Prompt]) -> Iterable[Sequence[str]]:
    for index, prompt in enumerate(prompts):
        names = ", ".join(objects_of(prompt.relations))
        content = {
            "Primary Categories": "Scenes",
            "Secondary Categories": "Scenes",
            "Subjects": "Other Entity",
            "Sentence Structure": "Descriptive",
            "Testpoints": [LAYOUT, "Attribute - Color", "Attribute - Shape"],
            "Testpoint Description": ["; ".join(map(state, prompt.relations)), names, names],
        }
        yield (str(index), prompt.text, json.dumps(content))


def _geneval_rows(prompts: Sequence[Prompt]) -> Iterable[dict[str, object]]:
    for prompt in prompts:
        names = objects_of(prompt.relations)
        include = [{"class": name, "count": 1} for name in names]
        placed = [_placed(each, names) for each in prompt.relations]
        yield {"tag": "position", "include": [*include, *placed], "prompt": prompt.text}
    for prompt in prompts[::COLOR_EVERY]:
        pairs = [name.split() for name in objects_of(prompt.relations)]
        if len({shape for _, shape in pairs}) == len(pairs):
            colored = [{"class": shape, "count": 1, "color": color} for color, shape in pairs]
            yield {"tag": "color_attr", "include": colored, "prompt": prompt.text}


def _placed(relation: Relation, names: Sequence[str]) -> dict[str, object]:
    position = [relation.relation, names.index(relation.object)]
    return {"class": relation.subject, "count": 1, "position": position}


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows([columns, *rows])
    return buffer.getvalue()


def _lines(rows: Iterable[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _write(path: Path, text: str) -> None:
    write_file(str(path), text.encode())
