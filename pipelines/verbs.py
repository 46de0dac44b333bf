"""The verbs of the command line, and the function that each of their actions runs."""

from __future__ import annotations

from conf.command import Action, Word

_PREFERENCES, _REWARD = "pipelines.preferences.commands", "pipelines.reward.commands"
_REVIEW = "pipelines.preferences.review.commands"
_POLICY, _SCENES = "pipelines.policy.commands", "pipelines.pretrain.commands"
_OPERATIONS = "pipelines.operations.commands"
_STAGES = ("preferences", "reward", "policy", "evaluation")

VERBS: dict[str, dict[str, Action]] = {
    "preferences": {
        "build": Action(
            f"{_PREFERENCES}:build",
            "make preference pairs: write prompts, perturb them, generate images, review, save",
            ("preferences", "writer", "perturber", "qwen_image", "hunyuan_image", "seedream", "budget"),
        ),
        "triage": Action(
            f"{_REWARD}:triage",
            "show pairs that a model finds doubtful first in the review",
            ("review", "judge", "serving"),
        ),
        "review": Action(f"{_REVIEW}:review", "serve the review page for annotators, until interrupted", ("review",)),
        "to_label_studio": Action(f"{_REVIEW}:to_label_studio", "write unreviewed pairs as tasks", ("review",)),
        "from_label_studio": Action(f"{_REVIEW}:from_label_studio", "read annotations as votes", ("review",)),
        "publish": Action(
            f"{_REVIEW}:publish", "write a versioned dataset folder: parquet, card, exports", ("publish",)
        ),
        "report": Action(f"{_REVIEW}:report", "write an HTML file with plots of the pairs' composition"),
    },
    "reward": {
        "train": Action(
            f"{_REWARD}:train",
            "train SpatialScore on the run's pairs, then evaluate and check it",
            ("reward", "spatialscore"),
        ),
        "evaluate": Action(
            f"{_REWARD}:evaluate",
            "measure pairwise accuracy on the held-out pairs, with baselines",
            ("baselines", "reward"),
        ),
        "check": Action(f"{_REWARD}:check", "run the sanity checks that allow a reward model to train a policy"),
        "score": Action(
            f"{_REWARD}:score",
            "score a folder of images under their prompts",
            ("score", "serving"),
            (Word("score.prompts", "PROMPTS.jsonl"), Word("score.images", "IMAGES")),
            {"out": "score.out"},
        ),
        "merge": Action(f"{_REWARD}:merge", "write the run's SpatialScore with its LoRA merged into the backbone"),
        "serve": Action(f"{_REWARD}:serve", "answer POST /score over HTTP, until interrupted", ("serving",)),
    },
    "policy": {
        "train": Action(
            f"{_POLICY}:train",
            "top-k GRPO with the run's SpatialScore; resumes from the newest checkpoint",
            ("policy", "rewards", "flux", "serving", "judge", "detector", "export"),
        ),
        "export": Action(
            f"{_POLICY}:export", "write the newest checkpoint's LoRA in diffusers format", ("export", "flux")
        ),
        "sample": Action(
            f"{_POLICY}:sample",
            "generate images of a text, given in quotes, by the base and the trained policy",
            ("sample", "flux"),
            (Word("sample.text", "'TEXT'", r".*\s.*"),),
        ),
    },
    "evaluate": {
        "run": Action(
            "pipelines.evaluation.commands:run",
            "compare images of held-out prompts before and after training; writes report.html",
            ("evaluation", "flux", "serving"),
        )
    },
    "run": {"run": Action(f"{_OPERATIONS}:run", "run all four stages as one job; skips what is complete", _STAGES)},
    "demo": {
        "run": Action(
            f"{_OPERATIONS}:run",
            "run all four stages in minutes, on this machine, under runs/demo",
            _STAGES,
            implied=("run_dir=runs/demo",),
        )
    },
    "submit": {
        "run": Action(
            f"{_OPERATIONS}:submit",
            "run another verb as a job on a running cluster and follow its log",
            ("submit",),
            argument="command",
        )
    },
    "status": {
        "run": Action(
            f"{_OPERATIONS}:status",
            "show the state of a run: progress, learning, waits, rewards, failures",
            ("status",),
        )
    },
    "ablation": {
        "run": Action(
            "pipelines.operations.ablation.commands:run",
            "train variants of stage 3 and compare them in one table; uses the demo's SpatialScore",
            ("ablation",),
            implied=("run_dir=runs/demo",),
        )
    },
    "doctor": {
        "run": Action("pipelines.operations.doctor:command", "check this machine and report how to fix what is missing")
    },
    "scenes": {
        "pretrain": Action(f"{_SCENES}:pretrain", "train the tiny checkpoints of the embedded world", ("pretrain",)),
        "check": Action(f"{_SCENES}:check", "measure the error rate of the exact checker"),
    },
    "config": {
        "show": Action(
            "conf.show:show",
            "print the settings in force and where each value comes from",
            ("config",),
            (Word("config.only", "SECTION"),),
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
