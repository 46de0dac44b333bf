"""What the policy is rewarded for: named rewards, and the judge behind an endpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from conf.endpoints import ChatSettings
from conf.errors import SettingsError
from conf.rules import above, at_least, between, check_fields, check_url, gpu_count, one_of

RewardKind = Literal["", "spatialscore", "rules", "judge", "detector", "depth_rules", "python", "http",
                     "clip", "pickscore", "hpsv2", "hpsv3", "imagereward", "vqascore", "unifiedreward"]  # fmt: skip
"""What computes a reward. "": the kind that the reward is named after."""

KINDS = tuple(kind for kind in get_args(RewardKind) if kind)

KINDS_WITH_A_SECTION: Mapping[str, str] = {
    "spatialscore": "serving",
    "rules": "",
    "judge": "judge",
    "detector": "detector",
}
"""Kinds of which a run has one reward at most -> the section of their settings ("": they have none)."""

MAX_REQUEST_IMAGES = 64
"""Images of one request at most, to a reward behind HTTP and to `reward serve`, which has the same contract."""
MAX_REQUEST_BYTES = 32 * 2**20
"""Bytes of such a request at most."""
_REPLICAS = ("threads", "cpus", "gpus", "min_replicas", "max_replicas", "node_group", "runtime_env")
OWN_KINDS = ("python", "http")
"""Kinds that are your own: code that a path names, and a service."""
KINDS_BY_RELATIONS = ("detector", "depth_rules")
"""Kinds that score only the prompts of the run, of which they were given the relations."""
SCORER_KINDS = ("clip", "pickscore", "hpsv2", "hpsv3", "imagereward", "vqascore", "unifiedreward")
"""Kinds that are published reward models."""
FIELDS: Mapping[str, tuple[str, ...]] = {
    "depth_rules": (
        "model",
        "depth_model",
        "threshold",
        "margin",
        "depth_margin",
        "size_margin",
        "batch_images",
        *_REPLICAS,
    ),
    "python": ("path", *_REPLICAS),
    "http": ("url", "token_variable", "timeout", "retries", "batch_images", *_REPLICAS),
    **dict.fromkeys(SCORER_KINDS, ("model", "revision", "packages", "batch_images", *_REPLICAS)),
}
"""Kinds without a section of their own -> the settings that a reward of this kind has beside its kind and weight."""
_PLACEMENT = (*_REPLICAS, "packages", "token_variable", "timeout", "retries", "batch_images")
"""Settings that do not decide the scores."""

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class RewardTerm:
    """The rewards by name. A run is rewarded for the sum of those with a weight, and watches those without one.

    rewards.NAME=0.5 is short for rewards.NAME.weight=0.5, and rewards.NAME=0 leaves a reward out. See docs/rewards.md.
    """

    section: ClassVar[str] = "rewards"

    kind: RewardKind = ""
    """What computes the reward. Empty: the kind that it is named after."""

    weight: float = field(default=0.0, metadata=at_least(0))
    """Weight in the training reward. 0: the reward is only watched, on held-out images."""

    path: str = ""
    """python: package.module:name of your function or class, importable from the folder of the job."""

    url: str = ""
    """http: address that answers POST with scores."""

    token_variable: str = ""
    """http: environment variable of the driver with the bearer token of the service. Empty: no token."""

    timeout: float = field(default=60.0, metadata=above(0))
    """http: seconds after which a request counts as unanswered."""

    retries: int = field(default=5, metadata=at_least(0))
    """http: retries of a request without answer, or with status 408, 409, 429 or 5xx. Then its images have no score."""

    model: str = ""
    """Published reward models, and depth_rules (a GroundingDINO): directory or hub id. Empty: the authors' weights."""

    depth_model: str = ""
    """depth_rules: directory or hub id of a Depth-Anything-V2. Empty: depth-anything/Depth-Anything-V2-Small-hf."""

    threshold: float = field(default=0.3, metadata=between(0, 1))
    """depth_rules: confidence above which a box counts."""

    margin: float = field(default=0.1, metadata=at_least(0))
    """depth_rules: fraction of both boxes' sizes by which their centres must be apart for left, right, above, below."""

    depth_margin: float = field(default=0.1, metadata=at_least(0))
    """depth_rules: fraction of the image's range of depth by which one object must be nearer."""

    size_margin: float = field(default=0.2, metadata=at_least(0))
    """depth_rules: fraction by which the larger box must exceed the smaller one."""

    revision: str = ""
    """Published reward models: commit or branch of the weights on the hub. Empty: the commit that we pin, if any."""

    packages: Literal["pip", "uv", "installed"] = "pip"
    """Published reward models: install their pinned packages for the replicas alone, or use those that are there."""

    batch_images: int = field(default=24, metadata=at_least(1))
    """Images in one forward pass; http: in one request, 64 at most."""

    threads: int = field(default=1, metadata=at_least(1))
    """CPU threads of a replica."""

    cpus: float = field(default=0.1, metadata=at_least(0))
    """Ray CPUs that a replica reserves."""

    gpus: float = field(default=0.0, metadata=gpu_count())
    """Ray GPUs that a replica reserves. A fraction shares a GPU with other roles."""

    min_replicas: int = field(default=1, metadata=at_least(1))
    """Replicas at least."""

    max_replicas: int = field(default=1, metadata=at_least(1))
    """Replicas at most. They are added with the load as in section serving."""

    node_group: str = ""
    """Node group (label ray.io/node-group) of the replicas. Empty: any node."""

    runtime_env: dict[str, Any] = field(default_factory=dict[str, Any])
    """Ray runtime environment of the replicas: pip or uv, env_vars and so on."""

    at_least: float | None = None  # the last field: its name hides the function
    """Gate: an image with less of this reward gets the lowest training reward of its group. null: no gate."""

    @property
    def trains(self) -> bool:
        """Whether the training reward depends on it: by a weight, or by a gate."""
        return self.weight > 0 or self.at_least is not None

    def kind_of(self, name: str) -> str:
        """The kind of the reward with this name."""
        return self.kind or name

    def check(self, name: str) -> None:
        """Raises SettingsError for the first field that breaks its rule. `name`: of the reward."""
        if not is_name(name):
            raise SettingsError(
                f"rewards: a name must be of small letters, digits and _, and not total, got {name!r}: rename it"
            )
        one_of(f"rewards.{name}.kind", self.kind_of(name), KINDS)
        if name in KINDS and self.kind_of(name) != name:
            raise SettingsError(f"rewards.{name} is named after a kind, got kind={self.kind}: choose another name")
        check_fields(self, lambda key: f"rewards.{name}.{key}")
        self._check_kind(name, self.kind_of(name))

    def _check_kind(self, name: str, kind: str) -> None:
        """Raises SettingsError for a setting that this kind does not have, or needs."""
        known = ("kind", "weight", "at_least", *FIELDS.get(kind, ()))
        for key in self.given():
            if key not in known:
                section = KINDS_WITH_A_SECTION.get(kind, "")
                fix = f"set {section}.{key}, if it has one" if section else "leave it out"
                raise SettingsError(f"rewards.{name}.{key} is no setting of the kind {kind}: {fix}")
        if kind == "python" and not _PATH.fullmatch(self.path):
            raise SettingsError(f"rewards.{name}.path must be like package.module:function, got {self.path!r}")
        if kind == "http":
            check_url(f"rewards.{name}.url", self.url, "http://host:8000/score")
        if kind == "http" and self.batch_images > MAX_REQUEST_IMAGES:
            raise SettingsError(
                f"rewards.{name}.batch_images must be at most {MAX_REQUEST_IMAGES}, got {self.batch_images}"
            )
        if self.max_replicas < self.min_replicas:
            raise SettingsError(
                f"rewards.{name}.max_replicas must be at least rewards.{name}.min_replicas, got {self.max_replicas} < "
                f"{self.min_replicas}"
            )

    def given(self) -> dict[str, Any]:
        """The fields that differ from their defaults, and the weight."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        plain = type(self)()
        return {name: value for name, value in values.items() if name == "weight" or value != getattr(plain, name)}

    def deciding(self) -> dict[str, Any]:
        """The given fields, without the weight, that decide the training reward."""
        return {name: value for name, value in self.given().items() if name not in ("weight", *_PLACEMENT)}


def is_name(text: str) -> bool:
    """Whether a reward can have this name."""
    return _NAME.fullmatch(text) is not None and text != "total"


Rewards = dict[str, RewardTerm | None]
"""Name -> reward; None: left out, although a preset has it."""


def check_rewards(rewards: Rewards) -> None:
    """Raises SettingsError for a reward that breaks a rule, or if no reward has a weight."""
    kinds: dict[str, str] = {}
    for name, term in rewards.items():
        if term is None:
            continue
        term.check(name)
        kind = term.kind_of(name)
        if kind in kinds and kind in KINDS_WITH_A_SECTION:
            raise SettingsError(
                f"rewards.{name}.kind={kind} is the kind of rewards.{kinds[kind]} too, and a run has one such reward: "
                f"leave one out, e.g. rewards.{name}=0"
            )
        kinds[kind] = name
    if not any(term and term.weight for term in rewards.values()):
        raise SettingsError("rewards needs a reward whose weight is not 0, e.g. rewards.spatialscore=1")


@dataclass(frozen=True)
class JudgeSettings(ChatSettings):
    """The judge: a vision-language model behind an OpenAI-compatible endpoint."""

    section: ClassVar[str] = "judge"

    runtime_env: dict[str, Any] = field(default_factory=dict[str, Any])
    """Ray runtime environment of the judge's client: pip, env_vars and so on."""
