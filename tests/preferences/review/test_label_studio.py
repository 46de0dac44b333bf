"""Label Studio: tasks out, annotations in, each vote once."""

import json

import pytest

from conf import load
from pipelines.preferences.review.annotation import truth
from pipelines.preferences.review.label_studio import export_tasks, import_annotations
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.serve import open_database, open_store


def _annotation(who: object, answers: tuple[str, ...]) -> dict:
    """As Label Studio's JSON export has it."""
    result = [
        {"from_name": f"answer_{i}", "to_name": f"claim_{i}", "type": "choices", "value": {"choices": [answer]}}
        for i, answer in enumerate(answers)
    ]
    return {"completed_by": who, "result": result, "lead_time": 4.5, "created_at": "2026-01-02T03:04:05.000000Z",
            "was_cancelled": False}  # fmt: skip


def test_votes_come_back_from_label_studio_and_are_counted_once(run_dir):
    settings = load("scenes", [f"run_dir={run_dir}", "review.gold_fraction=0"])
    tasks = json.loads(export_tasks(settings).read_text())
    folder, pairs = run_dir / "label_studio", PairSet(run_dir / "preferences")
    assert len(tasks) == 80 and not {"side", "w", "l", "changed"} & set(tasks[0]["data"]), "the tasks are blind"
    for task in tasks:
        pair = pairs.pair(task["data"]["pair_id"])
        shown = (folder / task["data"]["image"].partition("?d=")[2]).read_bytes()
        known = truth(pair)
        answers = known.winner if shown == pairs.image(pair.pair_id, "w") else known.loser
        task["annotations"] = [_annotation(7, answers), _annotation({"email": "ann@example.org"}, answers)]
    tasks[0]["annotations"].pop()  # ann has left out one picture
    (folder / "annotations.json").write_text(json.dumps(tasks))
    first = import_annotations(settings)
    assert (first.votes, first.known, first.incomplete) == (79, 0, 1)
    again = import_annotations(settings)
    assert (again.votes, again.known, again.incomplete) == (0, 79, 1)
    database = open_database(settings)
    statuses = list(open_store(settings, database).statuses().values())
    database.close()
    assert statuses.count("accepted") == 39 and statuses.count("pending") == 1
    assert len(json.loads(export_tasks(settings).read_text())) == 2, "what is settled is not handed out again"
    tasks[1]["data"]["key"] = "forged"
    (folder / "annotations.json").write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match="one that this review exported"):
        import_annotations(settings)
