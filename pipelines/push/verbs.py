"""The actions of `spatialt2i push`."""

from __future__ import annotations

from conf.command import Action

_COMMANDS, _CHECKS = "pipelines.push.commands", "pipelines.operations.push_checks"
_SHORT = {name: f"push.{name}" for name in ("repo", "private", "replace", "merged")}

PUSH: dict[str, Action] = {
    "lora": Action(
        f"{_COMMANDS}:lora",
        "upload the exported LoRA and its card to the Hugging Face Hub",
        ("push", "export"),
        short=_SHORT,
        run="continues",
        check=f"{_CHECKS}:lora",
    ),
    "spatialscore": Action(
        f"{_COMMANDS}:spatialscore",
        "upload the SpatialScore and its card to the Hugging Face Hub",
        ("push", "serving"),
        short=_SHORT,
        run="continues",
        replaces_run=("serving.model",),
        check=f"{_CHECKS}:spatialscore",
    ),
    "dataset": Action(
        f"{_COMMANDS}:dataset",
        "upload a published version of the pairs and its card to the Hugging Face Hub",
        ("push", "publish"),
        short=_SHORT,
        run="continues",
        check=f"{_CHECKS}:dataset",
    ),
}
