"""The verbs of the command line, and the function that each of their actions runs."""

from __future__ import annotations

from conf.command import Action, Word
from pipelines.benchmark.verbs import BENCHMARK
from pipelines.push.verbs import PUSH

_PREFERENCES, _REWARD = "pipelines.preferences.commands", "pipelines.reward.commands"
_REVIEW = "pipelines.preferences.review.commands"
_POLICY, _SCENES = "pipelines.policy.commands", "pipelines.pretrain.commands"
_OPERATIONS = "pipelines.operations.commands"
_CHECKS = "pipelines.operations.checks"
_STAGES = ("preferences", "reward", "policy", "evaluation", "benchmark", "tracking")

VERBS: dict[str, dict[str, Action]] = {
    "preferences": {
        "plan": Action(
            f"{_PREFERENCES}:plan",
            "predict calls, cost, GPU-hours, disk and annotators' hours, before anything is spent",
            ("preferences",),
            run="optional",
        ),
        "build": Action(
            f"{_PREFERENCES}:build",
            "make preference pairs: write prompts, perturb them, generate images, review, save",
            (
                "preferences",
                "writer",
                "perturber",
                "qwen_image",
                "hunyuan_image",
                "seedream",
                "claim_judge",
                "budget",
            ),
            resumes=True,
            run="starts",
            check=f"{_CHECKS}:build_preferences",
        ),
        "extend": Action(
            f"{_PREFERENCES}:extend",
            "add candidates until `preferences.target` pairs are accepted, or until the others wait for annotators",
            ("preferences", "budget"),
            resumes=True,
            run="continues",
            check=f"{_CHECKS}:build_preferences",
        ),
        "triage": Action(
            f"{_REWARD}:triage",
            "show pairs that a model finds doubtful first in the review",
            ("review", "judge", "serving"),
            run="continues",
            check=f"{_CHECKS}:triage",
        ),
        "review": Action(
            f"{_REVIEW}:review",
            "serve the review page for annotators, until interrupted",
            ("review",),
            run="continues",
            check=f"{_CHECKS}:review",
        ),
        "to_label_studio": Action(
            f"{_REVIEW}:to_label_studio",
            "write unreviewed pairs as tasks",
            ("review",),
            run="continues",
            check=f"{_CHECKS}:pairs",
        ),
        "from_label_studio": Action(
            f"{_REVIEW}:from_label_studio",
            "read annotations as votes",
            ("review",),
            run="continues",
            check=f"{_CHECKS}:pairs",
        ),
        "publish": Action(
            f"{_REVIEW}:publish",
            "write a versioned dataset folder: parquet, card, exports",
            ("publish",),
            run="continues",
            check=f"{_CHECKS}:pairs",
        ),
        "report": Action(
            f"{_REVIEW}:report",
            "write an HTML file with plots of the pairs' composition",
            run="continues",
            check=f"{_CHECKS}:pairs",
        ),
    },
    "reward": {
        "train": Action(
            f"{_REWARD}:train",
            "train SpatialScore on the run's pairs, then evaluate and check it",
            ("reward", "spatialscore", "tracking"),
            resumes=True,
            run="continues",
            replaces_run=("reward.pairs",),
            check=f"{_CHECKS}:train_reward",
        ),
        "evaluate": Action(
            f"{_REWARD}:evaluate",
            "measure pairwise accuracy on the held-out pairs, with baselines",
            ("baselines", "rewards", "reward"),
            resumes=True,
            run="continues",
            replaces_run=("serving.model", "reward.pairs"),
            check=f"{_CHECKS}:evaluate_reward",
        ),
        "check": Action(
            f"{_REWARD}:check",
            "run the sanity checks that allow a reward model to train a policy",
            run="continues",
            replaces_run=("serving.model", "reward.pairs"),
            check=f"{_CHECKS}:check_reward",
        ),
        "score": Action(
            f"{_REWARD}:score",
            "score a folder of images under their prompts",
            ("score", "serving"),
            (Word("score.prompts", "PROMPTS.jsonl"), Word("score.images", "IMAGES")),
            {"out": "score.out"},
            resumes=True,
            run="continues",
            replaces_run=("serving.model",),
            check=f"{_CHECKS}:score",
        ),
        "merge": Action(
            f"{_REWARD}:merge",
            "write the run's SpatialScore with its LoRA merged into the backbone",
            ("merge",),
            run="continues",
            replaces_run=("serving.model",),
            check=f"{_CHECKS}:merge",
        ),
        "serve": Action(
            f"{_REWARD}:serve",
            "answer POST /score over HTTP, until interrupted",
            ("serving",),
            run="continues",
            replaces_run=("serving.model",),
            check=f"{_CHECKS}:serve",
        ),
    },
    "policy": {
        "train": Action(
            f"{_POLICY}:train",
            "top-k GRPO with the run's SpatialScore; resumes from the newest checkpoint",
            ("policy", "rewards", "flux", "serving", "judge", "detector", "export", "tracking"),
            resumes=True,
            run="continues",
            replaces_run=("serving.model", "rewards.spatialscore"),
            check=f"{_CHECKS}:train_policy",
        ),
        "export": Action(
            f"{_POLICY}:export",
            "write the newest checkpoint's LoRA in diffusers format",
            ("export", "flux", "merge"),
            run="continues",
            replaces_run=("policy.checkpoint.dir",),
            check=f"{_CHECKS}:trained_policy",
        ),
        "sample": Action(
            f"{_POLICY}:sample",
            "generate images of a text, given in quotes, by the base and the trained policy",
            ("sample", "flux"),
            (Word("sample.text", "'TEXT'", text=True),),
            run="continues",
            check=f"{_CHECKS}:sample",
        ),
    },
    "evaluate": {
        "run": Action(
            "pipelines.evaluation.commands:run",
            "compare images of held-out prompts before and after training; writes report.html",
            ("evaluation", "flux", "serving"),
            run="continues",
            check=f"{_CHECKS}:evaluate",
        )
    },
    "play": {
        "run": Action(
            "pipelines.play.commands:run",
            "serve a page that shows images of your prompts before and after training, until interrupted",
            ("play", "rewards", "flux", "serving"),
            run="continues",
            check=f"{_CHECKS}:play",
        )
    },
    "push": PUSH,
    "benchmark": BENCHMARK,
    "run": {
        "run": Action(
            f"{_OPERATIONS}:run",
            "run all four stages as one job, under runs/scenes; skips what is complete",
            _STAGES,
            resumes=True,
            run="starts",
            check=f"{_CHECKS}:whole_run",
        )
    },
    "demo": {
        "run": Action(
            f"{_OPERATIONS}:run",
            "run all four stages in minutes, on this machine, under runs/demo",
            _STAGES,
            implied=("run_dir=runs/demo",),
            preset="scenes",
            resumes=True,
            run="starts",
            check=f"{_CHECKS}:whole_run",
        )
    },
    "submit": {
        "run": Action(
            f"{_OPERATIONS}:submit",
            "run another verb as a job on a running cluster and follow its log",
            ("submit",),
            argument="command",
            check=f"{_CHECKS}:submit",
        )
    },
    "status": {
        "run": Action(
            f"{_OPERATIONS}:status",
            "show the state of a run: progress, learning, waits, rewards, failures",
            ("status",),
            run="continues",
        )
    },
    "ablation": {
        "run": Action(
            "pipelines.operations.ablation.commands:run",
            "train variants of stage 3 and compare them in one table; uses the run's SpatialScore",
            ("ablation",),
            resumes=True,
            run="continues",
            replaces_run=("serving.model",),
            check=f"{_CHECKS}:ablation",
        )
    },
    "plan": {
        "run": Action(
            "pipelines.planning.command:plan",
            "predict memory, seconds and days of a run on GPUs, and the best division of them",
            ("plan",),
            short={name: f"plan.{name}" for name in ("gpus", "gpu", "gpu_file", "calibration", "output")},
            run="optional",
        )
    },
    "doctor": {
        "run": Action(
            "pipelines.operations.doctor:command",
            "check this machine and report how to fix what is missing",
            ("doctor",),
            (Word("doctor.stage", "STAGE", text=True),),
            run="optional",
        )
    },
    "scenes": {
        "pretrain": Action(f"{_SCENES}:pretrain", "train the tiny checkpoints of the embedded world", ("pretrain",)),
        "check": Action(f"{_SCENES}:check", "measure the error rate of the exact checker"),
    },
    "completion": {
        shell: Action(f"pipelines.completion:{shell}", f"print a script that completes commands in {shell}")
        for shell in ("bash", "zsh", "fish")
    },
    "config": {
        "show": Action(
            "conf.show:show",
            "print the settings in force and where each value comes from",
            ("config",),
            (Word("config.only", "SECTION"),),
            run="optional",
            argument="resolved",
        ),
        "describe": Action(
            "conf.show:describe",
            "print what the settings mean",
            ("config",),
            (Word("config.only", "SECTION"),),
            argument="resolved",
        ),
    },
}
"""Verb -> action -> what it runs. An action that is the only one of its verb need not be named."""
