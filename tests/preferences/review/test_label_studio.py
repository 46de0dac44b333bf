"""Label Studio: exported tasks, imported annotations, and each vote counted once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conf import UserError, load
from pipelines.preferences.claims import Answer
from pipelines.preferences.review.annotation import truth
from pipelines.preferences.review.label_studio import export_tasks, import_annotations
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.serve import open_database, open_store


def _choice(name: str, to_name: str, choice: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": to_name, "type": "choices", "value": {"choices": [choice]}}


def _annotation(account: object, first: tuple[Answer, ...], second: tuple[Answer, ...]) -> dict[str, Any]:
    """An annotation as in a JSON export of Label Studio."""
    result = [
        _choice(f"{order}_{i}", f"{order}_claim_{i}", answer)
        for order, answers in (("first", first), ("second", second))
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
    settings = load("scenes", [f"run_dir={run_dir}", "review.gold_fraction=0", "review.label_studio_pairs=30"])
    paths = [export_tasks(settings), export_tasks(settings)]
    tasks = [task for path in paths for task in json.loads(path.read_text())]
    folder, pairs = run_dir / "label_studio", PairSet(run_dir / "preferences")
    assert [len(json.loads(path.read_text())) for path in paths] == [30, 10], "slices of one task a pair"
    with pytest.raises(UserError, match="none of the 2 slices"):
        export_tasks(settings)
    assert not {"side", "w", "l", "changed"} & set(tasks[0]["data"]), "a task does not tell the winner"
    winner_first = 0
    for task in tasks:
        pair = pairs.pair(task["data"]["pair_id"])
        assert [claim["text"] for claim in task["data"]["claims"]] == [" ".join(claim) for claim in pair.claims]
        shown = (folder / task["data"]["first"].partition("?d=")[2]).read_bytes()
        known = truth(pair)
        assert known
        answers = known.winner, known.loser
        if shown != pairs.image(pair.pair_id, "w"):
            answers = known.loser, known.winner
        winner_first += answers[0] == known.winner
        task["annotations"] = [_annotation(7, *answers), _annotation({"email": "ann@example.org"}, *answers)]
    assert 8 <= winner_first <= 32
    tasks[0]["annotations"][1]["result"].pop()  # ann left one claim out
    bad = _choice("problem", "prompt", "bad prompt")
    note = {"from_name": "note", "to_name": "prompt", "type": "textarea", "value": {"text": ["two suns"]}}
    for annotation in tasks[1]["annotations"]:
        annotation["result"] = [bad, note]
    (folder / "annotations-1.json").write_text(json.dumps(tasks[:20]))
    (folder / "annotations-2.json").write_text(json.dumps(tasks[20:]))
    first = import_annotations(settings)
    assert (first.saved, first.known, first.incomplete) == (79, 0, 1)
    again = import_annotations(settings)
    assert (again.saved, again.known, again.incomplete) == (0, 79, 1)
    database = open_database(settings)
    store = open_store(settings, database)
    statuses = [one.status for one in store.decisions().values()]
    notes = {vote.annotation.note for vote in store.votes() if vote.annotation.bad_prompt}
    database.close()
    assert (statuses.count("accepted"), statuses.count("pending"), statuses.count("rejected")) == (38, 1, 1)
    assert notes == {"two suns"}
    for path in paths:
        path.unlink()
    assert len(json.loads(export_tasks(settings).read_text())) == 1, "decided pairs are not exported again"
    tasks[1]["data"]["key"] = "forged"
    (folder / "annotations-1.json").write_text(json.dumps(tasks))
    with pytest.raises(UserError, match="one that this review exported"):
        import_annotations(settings)


def test_a_missing_export_of_label_studio_is_a_user_error(run_dir: Path) -> None:
    with pytest.raises(UserError, match="export the Label Studio project as JSON"):
        import_annotations(load("scenes", [f"run_dir={run_dir}"]))
