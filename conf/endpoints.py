"""Services that are called over the network, and what calling them may cost."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

from conf.rules import at_least, between


@dataclass(frozen=True)
class EndpointSettings:
    """A model behind an OpenAI-compatible endpoint, and how it may be called."""

    section: ClassVar[str] = "endpoint"  # name in the settings

    url: str = "https://api.openai.com/v1"
    model: str = "gpt-5"
    key_variable: str = "OPENAI_API_KEY"  # name of the driver's environment variable that holds the key
    concurrency: int = 8  # calls under way at once
    calls_per_minute: int = 0  # over the whole job; 0: no limit
    retries: int = 5  # of a call answered by 429 or 5xx, by nonsense, too late or not at all
    timeout: float = 120.0  # seconds until a call counts as not answered
    longest_wait: float = 60.0  # seconds to which the wait between retries grows; Retry-After may ask for more
    price_in: float = 0.0  # money for a million tokens read
    price_out: float = 0.0  # money for a million tokens written
    price_image: float = 0.0  # money for an image

    def __post_init__(self) -> None:
        at_least(f"{self.section}.concurrency", self.concurrency, 1)
        for name in ("calls_per_minute", "retries", "longest_wait", "price_in", "price_out", "price_image"):
            at_least(f"{self.section}.{name}", getattr(self, name), 0)
        if self.timeout <= 0:
            raise ValueError(f"{self.section}.timeout must be above 0 seconds, got {self.timeout}")

    def identity(self) -> Self:
        """Only what decides the answers: the rest of EndpointSettings, but for the model, at its defaults."""
        plain = {field.name: field.default for field in fields(EndpointSettings) if field.name != "model"}
        return replace(self, **plain)


@dataclass(frozen=True)
class WriterSettings(EndpointSettings):
    """Who writes prompts where preferences.writer=chat, and what they are to be like."""

    section: ClassVar[str] = "writer"

    attempts: int = 3  # answers asked for until one keeps the rules; then the row is dropped
    min_relations: int = 3
    max_relations: int = 12
    min_words: int = 35
    max_words: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("writer.attempts", self.attempts, 1)
        between("writer.min_relations", self.min_relations, 3, self.max_relations)
        between("writer.max_relations", self.max_relations, self.min_relations, 12)
        between("writer.min_words", self.min_words, 1, self.max_words)


@dataclass(frozen=True)
class PerturberSettings(EndpointSettings):
    """Who changes relations where preferences.perturber=chat."""

    section: ClassVar[str] = "perturber"

    attempts: int = 3  # answers asked for until one keeps the rules; then the row is dropped

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("perturber.attempts", self.attempts, 1)


@dataclass(frozen=True)
class SeedreamSettings(EndpointSettings):
    """The painter `seedream`: Seedream 4.0 over its OpenAI-compatible images API."""

    section: ClassVar[str] = "seedream"

    url: str = "https://ark.ap-southeast.bytepluses.com/api/v3"
    model: str = "seedream-4-0-250828"
    key_variable: str = "ARK_API_KEY"
    size: str = "1024x1024"  # as the API takes it


@dataclass(frozen=True)
class BudgetSettings:
    """What all calls of a run may cost together, those of earlier starts included. 0: no limit.

    A call under way is paid for: a limit may be passed by as much as those calls cost.
    """

    calls: int = 0  # requests sent, repeated ones included
    tokens: int = 0  # read and written
    money: float = 0.0  # in the currency of the endpoints' prices
    cache: str = ""  # folder or URI of answers and of the account of calls; empty: <run_dir>/answers

    def __post_init__(self) -> None:
        for name in ("calls", "tokens", "money"):
            at_least(f"budget.{name}", getattr(self, name), 0)
