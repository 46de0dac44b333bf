"""Wrong commands: each is answered by one line and exit code 2, before torch is imported or Ray is started.

All of them run in one process of their own, in a folder with two runs that have settings and nothing else.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from pipelines.policy.checkpoint import MANIFEST, Manifest
from tests.support.ports import free_port
from tests.support.runs import make_run

ROOT = Path(__file__).parents[2]
RULES = "rewards.spatialscore=0 rewards.rules=1"

MISTAKES = {
    # words
    "polcy train": "no verb 'polcy': did you mean policy?",
    "policy trian": "did you mean train?",
    "--lr 3": "write one of reward.lr=3, policy.optimizer.lr=3, after a verb",
    "evaluate --lr 3": "write one of reward.lr=3",
    "policy train policy.minutes 5": "write policy.minutes=5",
    "policy train policy.lr=3": "did you mean policy.optimizer.lr?",
    "evaluate run_dr=runs/demo": "command line: no setting 'run_dr': did you mean run_dir?",
    "evaluate flux_dv": "did you mean flux_dev?",
    "scenes check x": "'x' is neither a preset nor section.key=value",
    "completion tcsh": "'tcsh' is not an action of completion",
    # files of settings
    "evaluate nope.yaml": "no preset file 'nope.yaml'",
    "evaluate broken.yaml": "preset broken.yaml is not valid YAML",
    "evaluate adir.yaml": "adir.yaml",
    "policy train run_dir=runs/older": "runs/older/settings.yaml: no setting 'policy.lr': did you mean",
    # runs
    "status runs/dmeo": "there is no run in runs/dmeo: did you mean runs/demo? runs that exist: runs/demo",
    "status dmeo": "did you mean runs/demo?",
    "evaluate run_dir=runs/dmeo": "did you mean runs/demo?",
    "policy train run_dir=": "run_dir must not be empty",
    "policy export policy.checkpoint.keep=0": "policy.checkpoint.keep must be at least 1",
    "policy train flux_dev": "there is no run in runs/flux_dev",
    "config show nope": "'nope' is neither a preset nor a section",
    # values
    "policy train policy.minutes=nan": "policy.minutes must be a finite number at least 0, got nan",
    "policy train policy.minutes=-1": "policy.minutes must be at least 0",
    "policy train policy.optimizer.lr=inf": "policy.optimizer.lr must be a finite number above 0, got inf",
    "policy train policy.iterations=1e3": "policy.iterations must be an int",
    "policy train policy.iterations=-5": "command line: policy.iterations must be at least",
    "policy train policy.group_size=7": "policy.algorithm.top_k must be at most half of policy.group_size",
    "policy train policy.seed=-1": "policy.seed must be at least 0",
    "policy train rewards.spatialscore=-1": "rewards.spatialscore.weight must be at least 0",
    "policy train rewards.spatialscore=0": "rewards needs a reward",
    "preferences build preferences.seed=-1": "preferences.seed must be at least 0",
    "evaluate evaluation.seed=-1": "evaluation.seed must be at least 0",
    "run num_cpus=-4": "num_cpus must be at least 0",
    "run ray_address=nonsense": "ray_address must be local, auto or host:port",
    "reward serve serving.port=-3": "serving.port must be in [1, 65535]",
    "reward serve serving.port=99999": "serving.port must be in [1, 65535]",
    "reward serve serving.host=0.0.0.0": "callers must send a token",
    "preferences review review.port=70000": "review.port must be in [0, 65535]",
    "status status.every=nan": "status.every must be a finite number at least 0.1, got nan",
    "scenes pretrain pretrain.minutes=-1": "pretrain.minutes must be at least 0.1",
    "ablation ablation.variants=[x]": "ablation.variants must be one of",
    # texts
    "policy sample": "sample.text must not be empty",
    "policy sample ''": "quote your text",
    "policy sample ' '": "quote your text",
    "policy sample cat sample.images=100000": "sample.images must be in [1, 64]",
    # what is missing in the run
    "policy sample cat": "no trained policy in",
    "policy export": "no trained policy in",
    "evaluate": "no trained policy in",
    "reward train": "run `spatialt2i preferences build` first, or set reward.pairs",
    "reward train run_dir=runs/new": "or `spatialt2i preferences build`. It needs no run if reward.pairs is set",
    "reward train reward.pairs=/nowhere": "no preference pairs at /nowhere/data: correct reward.pairs",
    "reward evaluate": "no SpatialScore at",
    "reward check": "no SpatialScore at",
    "reward merge": "no SpatialScore at",
    "reward serve": "no SpatialScore at",
    "reward score prompts.jsonl imgs": "no SpatialScore at",
    "reward score prompts.jsonl imgs serving.model=/nowhere": "no SpatialScore at /nowhere",
    "policy train": "no SpatialScore at",
    "ablation": "no SpatialScore at",
    "preferences report": "no pairs in",
    "preferences review": "no pairs in",
    "preferences publish": "no pairs in",
    "preferences triage": "no pairs in",
    "preferences to_label_studio": "no pairs in",
    "preferences from_label_studio": "no pairs in",
    # versions, and settings that a checkpoint forbids to change
    "policy export run_dir=runs/trained export.version=999": "that version was not kept: choose one of 3",
    "policy export run_dir=runs/trained export.version=best": "choose one of 3",
    "policy sample cat run_dir=runs/trained export.version=999": "that version was not kept",
    "evaluate run_dir=runs/trained export.version=999": "that version was not kept",
    "evaluate run_dir=runs/trained evaluation.short_prompts=0 evaluation.long_prompts=0": "no prompt to evaluate",
    f"policy train run_dir=runs/trained {RULES} policy.strict_resume=true": "policy.optimizer.lr was 0.25 and is",
    # files, models, keys, ports, folders and clusters
    f"policy train {RULES} policy.prompts=nowhere.jsonl": "nowhere.jsonl",
    f"policy train {RULES} policy.prompts=empty.jsonl": "empty.jsonl holds no prompts",
    f"policy train {RULES} policy.prompts=binary": "binary",
    f"policy train {RULES} policy.held_out_prompts=nowhere.jsonl": "policy.held_out_prompts",
    f"policy train {RULES} flux.model=no/such/folder policy.prompts=prompts.jsonl": "flux.model=no/such/folder",
    f"policy train {RULES} flux.model=imgs policy.prompts=prompts.jsonl": "model_index.json",
    f"policy train {RULES} rewards.detector=1 detector.model=/nowhere": "detector.model=/nowhere",
    "policy train rewards.spatialscore=0 rewards.judge=1": "$OPENAI_API_KEY, which is not set",
    "run policy.prompts=nowhere.jsonl": "nowhere.jsonl",
    "run spatialscore.model=/nowhere": "spatialscore.model=/nowhere",
    "run run_dir=file/run": "run_dir must be a folder that can be written",
    "run ray_address=127.0.0.1:9": "no Ray cluster answers at ray_address=127.0.0.1:9",
    "evaluate run_dir=runs/trained ray_address=127.0.0.1:9": "no Ray cluster answers",
    "preferences build run_dir=file/run": "run_dir must be a folder that can be written",
    "preferences build flux.model=x/y": "needs flux.model=embedded",
    "preferences review run_dir=runs/trained review.port={taken}": "cannot listen on 127.0.0.1:{taken}",
    "reward serve run_dir=runs/trained serving.port={taken}": "cannot listen on 127.0.0.1:{taken}",
    "reward serve run_dir=runs/trained serving.token_variable=NO_TOKEN": "$NO_TOKEN, which is not set",
    "reward score nowhere.jsonl imgs run_dir=runs/trained": "nowhere.jsonl",
    "reward score run_dir=runs/trained": "reward score needs a file of prompts",
    "reward score scores.jsonl nowhere run_dir=runs/trained": "no image folder at 'nowhere'",
    "reward score scores.jsonl imgs run_dir=runs/trained --out file/x.parquet": "the folder of score.out must be",
    "demo flux_dev": "policy.prompts",
    "submit": "submit needs the command to run",
    "submit policy train": "Add run_dir=/shared/scenes",
    "submit policy train run_dir=/x policy.lrr=1": "did you mean policy.optimizer.lr?",
    "submit doctor run_dir=/x submit.working_dir=/nowhere": "submit.working_dir must be a folder",
}
"""Command -> a part of its message."""

PROGRAM = """
import contextlib, io, json, shlex, sys
from pipelines.cli import main
answers = {}
for line in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(shlex.split(line))
        except BaseException as error:
            code = repr(error)
    answers[line] = {"code": code, "message": err.getvalue(), "heavy": sorted({"torch", "ray"} & set(sys.modules))}
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Each wrong command -> its exit code, its message, and the heavy modules that were imported until then."""
    folder, taken = tmp_path_factory.mktemp("mistakes"), free_port()
    demo = make_run(folder / "runs" / "demo")
    trained = make_run(folder / "runs" / "trained", age=60)
    older = make_run(folder / "runs" / "older", age=60)
    older.settings.write_text(older.settings.read_text().replace("policy:\n", "policy:\n  lr: 0.1\n", 1))
    for made in (trained.export, trained.preferences, trained.reward_model, folder / "imgs", folder / "adir.yaml"):
        made.mkdir(parents=True)
    (trained.reward_model / "spatialscore.json").write_text('{"model": "x", "pixels": 4096}')
    (trained.preferences / "train-0.parquet").write_bytes(b"")
    checkpoint = trained.checkpoints / "000003"
    checkpoint.mkdir(parents=True)
    manifest = Manifest(3, 1.0, {"policy.optimizer.lr": 0.25}, {"rank-0.pt": "0" * 64})
    (checkpoint / MANIFEST).write_text(json.dumps(asdict(manifest)))
    (folder / "broken.yaml").write_text("policy: [\n")
    (folder / "file").write_text("")
    (folder / "empty.jsonl").write_text("")
    (folder / "binary").write_bytes(b"\xff\x00\xfe")
    (folder / "prompts.jsonl").write_text('{"text": "a cup left of a plate"}\n')
    (folder / "scores.jsonl").write_text('{"image": "a.png", "prompt": "a cup"}\n')
    os.utime(demo.settings)
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    with socket.create_server(("127.0.0.1", taken)):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps([line.format(taken=taken) for line in MISTAKES]),
            cwd=folder,
            env=environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    given = json.loads(ended.stdout)
    return {
        line: given[line.format(taken=taken)] | {"expected": expected.format(taken=taken)}
        for line, expected in MISTAKES.items()
    }


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2_without_torch_or_ray(
    line: str, answers: dict[str, dict[str, object]]
) -> None:
    answer = answers[line]
    message = str(answer["message"])
    assert answer["code"] == 2, answer
    assert message.startswith("spatialt2i: ") and message.count("\n") == 1, message
    assert str(answer["expected"]) in message
    assert answer["heavy"] == []
