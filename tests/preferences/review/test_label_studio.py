"""Label Studio: exported tasks, imported annotations, and each vote counted once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conf import UserError, load
from pipelines.preferences.review.annotation import truth
from pipelines.preferences.review.label_studio import export_tasks, import_annotations
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.serve import open_database, open_store


def _annotation(account: object, answers: tuple[str, ...]) -> dict[str, Any]:
    """An annotation as in a JSON export of Label Studio."""
    result = [
        {"from_name": f"answer_{i}", "to_name": f"claim_{i}", "type": "choices", "value": {"choices": [answer]}}
        for i, answer in enumerate(answers)
    ]
    return {
        "completed_by": account,
        "result": result,
        "lead_time": 4.5,
        "created_at": "2026-01-02T03:04:05.000000Z",
        "was_cancelled": False,
    }


def test_annotations_of_label_studio_become_votes_once(run_dir: Path) -> None:
    settings = load("scenes", [f"run_dir={run_dir}", "review.gold_fraction=0"])
    tasks = json.loads(export_tasks(settings).read_text())
    folder, pairs = run_dir / "label_studio", PairSet(run_dir / "preferences")
    assert len(tasks) == 80 and not {"side", "w", "l", "changed"} & set(tasks[0]["data"]), (
        "a task does not tell the side"
    )
    for task in tasks:
        pair = pairs.pair(task["data"]["pair_id"])
        shown = (folder / task["data"]["image"].partition("?d=")[2]).read_bytes()
        known = truth(pair)
        assert known
        answers = known.winner if shown == pairs.image(pair.pair_id, "w") else known.loser
        task["annotations"] = [_annotation(7, answers), _annotation({"email": "ann@example.org"}, answers)]
    tasks[0]["annotations"].pop()  # ann did not judge one image
    (folder / "annotations.json").write_text(json.dumps(tasks))
    first = import_annotations(settings)
    assert (first.saved, first.known, first.incomplete) == (79, 0, 1)
    again = import_annotations(settings)
    assert (again.saved, again.known, again.incomplete) == (0, 79, 1)
    database = open_database(settings)
    statuses = list(open_store(settings, database).statuses().values())
    database.close()
    assert statuses.count("accepted") == 39 and statuses.count("pending") == 1
    assert len(json.loads(export_tasks(settings).read_text())) == 2, "decided pairs are not exported again"
    tasks[1]["data"]["key"] = "forged"
    (folder / "annotations.json").write_text(json.dumps(tasks))
    with pytest.raises(UserError, match="one that this review exported"):
        import_annotations(settings)


def test_a_missing_export_of_label_studio_is_a_user_error(run_dir: Path) -> None:
    with pytest.raises(UserError, match="export the Label Studio project as JSON"):
        import_annotations(load("scenes", [f"run_dir={run_dir}"]))
