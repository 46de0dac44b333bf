"""`serving`: the Ray Serve deployment of SpatialScore. `score`: scoring a folder of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from conf.errors import SettingsError
from conf.listening import require_token
from conf.rules import Section, above, at_least, between, gpu_count


@dataclass(frozen=True)
class ServingSettings(Section):
    """The autoscaled replicas of SpatialScore (Ray Serve)."""

    section: ClassVar[str] = "serving"

    model: str = ""
    """SpatialScore directory. Empty: the model that stage 2 of the same run wrote."""

    skip_sanity_checks: bool = False
    """Let a SpatialScore train a policy although its sanity checks were not run or did not pass."""

    min_replicas: int = field(default=1, metadata=at_least(1))
    """Replicas at least."""

    max_replicas: int = 2
    """Replicas at most."""

    target_ongoing_requests: float = field(default=4.0, metadata=above(0))
    """Queued and running calls per replica that the autoscaler aims at."""

    max_ongoing_requests: int = field(default=16, metadata=at_least(1))
    """Calls that a replica accepts at once."""

    batch_images: int = field(default=48, metadata=at_least(1))
    """Images in one forward pass."""

    batch_wait_s: float = field(default=0.005, metadata=at_least(0))
    """Seconds that a replica waits for more calls to batch."""

    threads: int = field(default=1, metadata=at_least(1))
    """CPU threads of a replica."""

    cpus: float = field(default=0.1, metadata=at_least(0))
    """Ray CPUs that a replica reserves."""

    gpus: float = field(default=0.0, metadata=gpu_count())
    """Ray GPUs that a replica reserves. A fraction shares a GPU with other roles."""

    node_group: str = ""
    """Node group (label ray.io/node-group, the name of a KubeRay group) of the replicas. Empty: any node."""

    replicas_per_node: int = field(default=0, metadata=at_least(0))
    """Replicas on one node at most. 0: as many as fit."""

    runtime_env: dict[str, Any] = field(default_factory=dict[str, Any])
    """Ray runtime environment of the replicas: pip, env_vars and so on."""

    retries: int = field(default=8, metadata=at_least(0))
    """Retries, with backoff, of a scoring call whose replica died."""

    upscale_delay_s: float = field(default=5.0, metadata=at_least(0))
    """Seconds that the load must last before replicas are added."""

    downscale_delay_s: float = field(default=60.0, metadata=at_least(0))
    """Seconds of low load before replicas are removed."""

    orphan_minutes: float = field(default=30.0, metadata=at_least(0))
    """Remove the replicas after this time without a driver, which frees their GPUs. 0: never."""

    http: bool = False
    """Also answer POST /score over HTTP."""

    host: str = "127.0.0.1"
    """HTTP: address to listen on. 0.0.0.0 answers other machines and needs token_variable."""

    port: int = field(default=8000, metadata=between(1, 65535))
    """HTTP: port."""

    token_variable: str = ""
    """HTTP: environment variable with the token that callers must send. Empty: no token."""

    max_queued_requests: int = field(default=64, metadata=at_least(1))
    """HTTP: calls that may wait for a replica. Further calls are answered with status 503."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_replicas < self.min_replicas:
            raise SettingsError(
                "serving.max_replicas must be at least serving.min_replicas, got "
                f"{self.max_replicas} < {self.min_replicas}"
            )
        require_token(self.section, self.host, self.token_variable)


@dataclass(frozen=True)
class ScoreSettings(Section):
    """`reward score`: score a folder of images, with as many actors as section serving allows."""

    section: ClassVar[str] = "score"

    prompts: str = ""
    """Path or URI of JSON lines {"image": name inside the folder, "prompt": text}."""

    images: str = ""
    """Folder or URI of the images."""

    out: str = "scores.parquet"
    """Path or URI of the result."""

    chunk_rows: int = field(default=512, metadata=at_least(1))
    """Rows that are saved together. An interruption loses at most this many."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out.endswith(".parquet"):
            raise SettingsError(f"score.out must end in .parquet, got {self.out!r}")
