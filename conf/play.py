"""`play`: a page on which you type a prompt and compare the base with the trained policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from conf.listening import require_token
from conf.rules import Section, at_least, between


@dataclass(frozen=True)
class PlaySettings(Section):
    """`play`: a page with the images of a prompt by the base and by the trained policy, and their scores."""

    section: ClassVar[str] = "play"

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 answers other machines and needs token_variable."""

    port: int = field(default=8766, metadata=between(1, 65535))
    """Port."""

    token_variable: str = ""
    """Environment variable with the token that visitors must have in the page's address. Empty: no token."""

    replicas: int = field(default=1, metadata=at_least(1))
    """Copies of the policy. Each makes the images of one prompt at a time, with the CPUs and GPUs of a sampler."""

    waiting: int = field(default=4, metadata=at_least(0))
    """Prompts that may wait for a copy. Further ones are answered with "busy"."""

    max_characters: int = field(default=1000, metadata=between(1, 4000))
    """Characters of a prompt at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_token(self.section, self.host, self.token_variable)
