"""Services that are called over the network, and what calling them may cost."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

from conf.errors import SettingsError
from conf.rules import Section, above, at_least, check_url


@dataclass(frozen=True)
class EndpointSettings(Section):
    """A model behind an OpenAI-compatible endpoint, and how it is called."""

    section: ClassVar[str] = "endpoint"

    url: str = "https://api.openai.com/v1"
    """Base URL of the API."""

    model: str = "gpt-5"
    """Model name, as the API expects it."""

    key_variable: str = "OPENAI_API_KEY"
    """Name of the driver's environment variable that holds the API key."""

    concurrency: int = field(default=8, metadata=at_least(1))
    """Calls in flight at once."""

    calls_per_minute: int = field(default=0, metadata=at_least(0))
    """Rate limit over the whole job. 0: no limit."""

    retries: int = field(default=5, metadata=at_least(0))
    """Retries of a call that failed with status 429 or 5xx, timed out, or got an invalid answer."""

    timeout: float = field(default=120.0, metadata=above(0))
    """Seconds after which a call counts as unanswered."""

    max_backoff_s: float = field(default=60.0, metadata=at_least(0))
    """Longest wait between retries in seconds. The header Retry-After may ask for more."""

    price_in: float = field(default=0.0, metadata=at_least(0))
    """Cost of a million input tokens."""

    price_out: float = field(default=0.0, metadata=at_least(0))
    """Cost of a million output tokens."""

    price_image: float = field(default=0.0, metadata=at_least(0))
    """Cost of an image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url(f"{self.section}.url", self.url, "https://host/v1")

    def identity(self) -> Self:
        """Only what determines the answers: every field of EndpointSettings except the model is set to its default."""
        plain = {field.name: field.default for field in fields(EndpointSettings) if field.name != "model"}
        return replace(self, **plain)

    def answer_options(self) -> dict[str, Any]:
        """Fields of a question's body, beside the model and the messages, that may change the answer."""
        return {}

    def delivery_options(self) -> dict[str, Any]:
        """Fields of a question's body that decide when the answer comes and what it costs, not what it says."""
        return {}


@dataclass(frozen=True)
class ChatSettings(EndpointSettings):
    """A chat model behind an OpenAI-compatible endpoint. An option that is left at its default is not sent."""

    reasoning_effort: Literal["default", "none", "minimal", "low", "medium", "high"] = "default"
    """How long a reasoning model thinks. Its thoughts are paid for as output tokens."""

    verbosity: Literal["default", "low", "medium", "high"] = "default"
    """How long the answers of a model with this option are."""

    service_tier: Literal["default", "auto", "flex", "priority"] = "default"
    """flex: slower, at half the price, as OpenAI's Batch API; raise the timeout to 900 seconds."""

    temperature: float = -1.0
    """Sampling temperature. -1: the service's own; GPT-5 takes no other."""

    max_tokens: int = field(default=0, metadata=at_least(0))
    """Tokens of an answer at most, thoughts included (max_completion_tokens). 0: no limit is sent."""

    answer_seed: int = -1
    """Seed of the answer, which some services honour. -1: none is sent."""

    extra_body: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of the question's body, e.g. {top_p: 0.9}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature != -1 and not 0 <= self.temperature <= 2:
            raise SettingsError(f"{self.key('temperature')} must lie in [0, 2], or be -1, got {self.temperature}")
        if taken := {"model", "messages", "response_format", "stream", "n"} & self.extra_body.keys():
            raise SettingsError(f"{self.key('extra_body')} must not hold {min(taken)!r}, which is set already")

    def identity(self) -> Self:
        """Only what determines the answers: the model and the options that may change what it says."""
        return replace(super().identity(), service_tier="default")

    def answer_options(self) -> dict[str, Any]:
        """See EndpointSettings."""
        options: dict[str, Any] = {
            name: value for name in ("reasoning_effort", "verbosity") if (value := getattr(self, name)) != "default"
        }
        if self.temperature >= 0:
            options["temperature"] = self.temperature
        if self.max_tokens:
            options["max_completion_tokens"] = self.max_tokens
        if self.answer_seed >= 0:
            options["seed"] = self.answer_seed
        return options | self.extra_body

    def delivery_options(self) -> dict[str, Any]:
        """See EndpointSettings."""
        return {} if self.service_tier == "default" else {"service_tier": self.service_tier}


@dataclass(frozen=True)
class WriterSettings(ChatSettings):
    """The chat model that writes prompts if preferences.writer=chat, and the rules for its prompts."""

    section: ClassVar[str] = "writer"

    attempts: int = field(default=3, metadata=at_least(1))
    """Answers that are requested until one follows the rules. Then the row is dropped."""

    min_relations: int = field(default=3, metadata=at_least(3))
    """Relations of a prompt at least."""

    max_relations: int = 12
    """Relations of a prompt at most."""

    min_words: int = field(default=35, metadata=at_least(1))
    """Words of a prompt at least."""

    max_words: int = 100
    """Words of a prompt at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.min_relations <= self.max_relations <= 12:
            raise SettingsError(
                "writer.max_relations must lie between writer.min_relations and 12, got "
                f"{self.max_relations} with min_relations={self.min_relations}"
            )
        if self.min_words > self.max_words:
            raise SettingsError(
                f"writer.min_words must be at most writer.max_words, got {self.min_words} > {self.max_words}"
            )


@dataclass(frozen=True)
class PerturberSettings(ChatSettings):
    """The chat model that changes relations if preferences.perturber=chat."""

    section: ClassVar[str] = "perturber"

    attempts: int = field(default=3, metadata=at_least(1))
    """Answers that are requested until one follows the rules. Then the row is dropped."""


@dataclass(frozen=True)
class ClaimJudgeSettings(ChatSettings):
    """The vision-language model that checks images before people see them, if preferences.image_check=judge."""

    section: ClassVar[str] = "claim_judge"

    attempts: int = field(default=2, metadata=at_least(1))
    """Answers that are requested until one has the right form. Then the row is dropped."""


@dataclass(frozen=True)
class SeedreamSettings(EndpointSettings):
    """The generator seedream: Seedream 4.0 through its OpenAI-compatible images API."""

    section: ClassVar[str] = "seedream"

    url: str = "https://ark.ap-southeast.bytepluses.com/api/v3"
    """Base URL of the API."""

    model: str = "seedream-4-0-250828"
    """Model name, as the API expects it."""

    key_variable: str = "ARK_API_KEY"
    """Name of the driver's environment variable that holds the API key."""

    size: str = "1024x1024"
    """Image size, as the API expects it."""

    edit_losers: bool = False
    """Make the loser by editing the winner, so that little else than the changed relations differs."""


@dataclass(frozen=True)
class BudgetSettings(Section):
    """Limits on the calls of a run, including its earlier starts. 0: no limit.

    Calls in flight are paid for, so a limit can be exceeded by the cost of these calls.
    """

    section: ClassVar[str] = "budget"

    calls: int = field(default=0, metadata=at_least(0))
    """Requests, including retries."""

    tokens: int = field(default=0, metadata=at_least(0))
    """Input and output tokens."""

    cost: float = field(default=0.0, metadata=at_least(0))
    """Cost, in the currency of the endpoints' prices."""

    cache: str = ""
    """Folder or URI of cached answers and of the record of calls. Empty: <run_dir>/answers."""
