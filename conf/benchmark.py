"""`benchmark`: public benchmarks of text-to-image models, and the judges that answer their questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from conf.baselines import SCORERS
from conf.endpoints import ChatSettings
from conf.errors import SettingsError
from conf.rules import Section, at_least, gpu_count, one_of

PAPER_BENCHMARKS = ("dpg", "tiif", "unigenbench", "unigenbench_long", "geneval")
"""The benchmarks that the paper reports. unigenbench has the short prompts and unigenbench_long the long ones."""
BENCHMARKS = (*PAPER_BENCHMARKS, "spatialgeneval", "geneval2")
"""All benchmarks by name."""


@dataclass(frozen=True)
class BenchmarkSettings(Section):
    """Which benchmarks are run, on which images, and how the images are generated."""

    section: ClassVar[str] = "benchmark"

    in_run: bool = False
    """Run the benchmarks as the last step of `spatialt2i run`, too."""

    names: tuple[str, ...] = PAPER_BENCHMARKS
    """Benchmarks to run: dpg, tiif, unigenbench, unigenbench_long, geneval (the paper's), spatialgeneval, geneval2."""

    data: str = ""
    """Folder with the published files, which `benchmark fetch` fills: one folder a benchmark. Empty, in the scenes
    world: the held-out prompts, written in the same formats below <run_dir>/benchmark."""

    mirror: str = "https://github.com"
    """Where `benchmark fetch` finds the repositories: this address and the repository's owner/name."""

    part: Literal["spatial", "all"] = "spatial"
    """spatial: only the prompts of the paper's table about spatial relations. all: the whole benchmark."""

    tiif_set: Literal["testmini", "test"] = "testmini"
    """Prompts of TIIF-Bench. testmini: 196 images of the spatial part; test: 1,836. The paper names neither."""

    sides: Literal["both", "base", "policy"] = "both"
    """Models whose images are generated, judged and reported."""

    height: int = 0
    """Height of an image in pixels, a multiple of 16. 0: flux.height. Published figures of FLUX.1-dev: 1024."""

    width: int = 0
    """Width of an image in pixels, a multiple of 16. 0: flux.width."""

    denoise_steps: int = field(default=0, metadata=at_least(0))
    """Denoise steps of an image. 0: evaluation.denoise_steps. TIIF-Bench: 50, UniGenBench++: 30, GenEval: 50."""

    images_per_prompt: int = field(default=0, metadata=at_least(0))
    """Images of each prompt. 0: as the benchmark prescribes (1 of TIIF-Bench, SpatialGenEval and GenEval 2, else 4)."""

    max_prompts: int = field(default=0, metadata=at_least(0))
    """Prompts of a benchmark at most, the first ones. 0: all. With a limit no figure compares with a published one."""

    seed: int = field(default=3407, metadata=at_least(0))
    """Seed of the images; the same for base and policy."""

    batch: int = field(default=4, metadata=at_least(1))
    """Images that are sampled together."""

    images: str = ""
    """Folder of images that were made elsewhere, in the official layout of the one benchmark in benchmark.names.
    `benchmark judge` judges them, instead of this run's, as the side benchmark.images_name."""

    images_name: str = "other"
    """Name, in folders and tables, of the model that made benchmark.images."""

    judge: Literal["endpoint", "exact"] = "exact"
    """Who answers. endpoint: the judge of each benchmark (sections tiif_judge, unigenbench_judge, dpg_judge, geneval,
    spatialgeneval_judge, geneval2_judge). exact: the exact checker of the scenes world, which answers through a server
    on this machine."""

    other_rewards: tuple[str, ...] = ()
    """Baselines that compare each image of the policy with that of the base, to see what else changed: PickScore,
    HPSv2.1, HPSv3, ImageReward, VQAScore, UnifiedReward. Section baselines says how they run."""

    attempts: int = field(default=3, metadata=at_least(1))
    """Answers that are requested until one can be read; else it is missing. Official: TIIF no limit, UniGen 11."""

    chunk_images: int = field(default=32, metadata=at_least(1))
    """Images whose answers are saved together. An interruption asks for at most this many again; answers come from
    the cache then."""

    out: str = ""
    """Folder that `benchmark export` writes. Empty: <run_dir>/benchmark/export."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.names:
            one_of("benchmark.names: a name", name, BENCHMARKS)
        for name in self.other_rewards:
            one_of("benchmark.other_rewards: a name", name, SCORERS)
        if len(set(self.names)) < len(self.names):
            raise SettingsError(f"benchmark.names must name a benchmark once, got {', '.join(self.names)}")
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < 0 or value % 16:
                raise SettingsError(
                    f"benchmark.{name} must be 0 or a positive multiple of 16 (VAE 8 x packing 2), got {value}"
                )
        if not self.images_name.isidentifier() or self.images_name in ("base", "policy"):
            raise SettingsError(
                "benchmark.images_name must be a word of letters, digits and _, other than base and policy, got "
                f"{self.images_name!r}"
            )


@dataclass(frozen=True)
class TiifJudgeSettings(ChatSettings):
    """The judge of TIIF-Bench: a vision-language model behind an OpenAI-compatible endpoint."""

    section: ClassVar[str] = "tiif_judge"

    model: str = "gpt-4o"
    """Model name, as the API expects it. Published results: gpt-4o, or Qwen2.5-VL-72B-Instruct on vLLM."""

    temperature: float = 1.0
    """Sampling temperature. -1: the service's own. Official: 1."""


@dataclass(frozen=True)
class UniGenBenchJudgeSettings(ChatSettings):
    """The judge of UniGenBench++: Gemini, or the benchmark's open evaluator on vLLM."""

    section: ClassVar[str] = "unigenbench_judge"

    url: str = "https://generativelanguage.googleapis.com/v1beta/openai"
    """Base URL of the API."""

    model: str = "gemini-2.5-pro"
    """Model name, as the API expects it. The open evaluators: CodeGoat24/UniGenBench-EvalModel-qwen3vl-32b-v1 and
    CodeGoat24/UniGenBench-EvalModel-qwen-72b-v1."""

    key_variable: str = "GEMINI_API_KEY"
    """Name of the driver's environment variable that holds the API key."""

    max_tokens: int = field(default=8192, metadata=at_least(0))
    """Tokens of an answer at most, thoughts included. 0: no limit is sent. Official: 4096, which may be too few."""

    image_first: bool = False
    """Send the image before the text, as JPEG of quality 95: the form of the open evaluators."""


@dataclass(frozen=True)
class DpgJudgeSettings(ChatSettings):
    """The judge of DPG-Bench: a vision-language model. The official judge is mPLUG, which has another scale."""

    section: ClassVar[str] = "dpg_judge"

    model: str = "Qwen/Qwen2.5-VL-72B-Instruct"
    """Model name, as the API expects it."""

    temperature: float = 0.0
    """Sampling temperature. -1: the service's own."""


@dataclass(frozen=True)
class SpatialGenEvalJudgeSettings(ChatSettings):
    """The judge of SpatialGenEval, which answers each question several times."""

    section: ClassVar[str] = "spatialgeneval_judge"

    model: str = "gpt-4o"
    """Model name, as the API expects it. Published results: Qwen2.5-VL-72B-Instruct on vLLM, or gpt-4o."""

    temperature: float = 1.0
    """Sampling temperature. -1: the service's own. Official: 1."""

    answers: int = field(default=5, metadata=at_least(1))
    """Answers about each image. An option counts if 4 of 5 give it. Official: 5."""

    shuffle: bool = True
    """Show the options in an order of their own for each question. false: in the published order, in which C is right
    in 46 % of the questions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answers > 1 and self.answer_seed >= 0:
            raise SettingsError(
                f"spatialgeneval_judge.answer_seed must be -1 with answers={self.answers}, got {self.answer_seed}: "
                "with one seed all answers are the same"
            )


@dataclass(frozen=True)
class GenEval2JudgeSettings(ChatSettings):
    """The judge of GenEval 2: the probabilities of the first token count, so the service must give `logprobs`."""

    section: ClassVar[str] = "geneval2_judge"

    url: str = "http://127.0.0.1:8000/v1"
    """Base URL of the API. The default is that of `vllm serve`."""

    model: str = "Qwen/Qwen3-VL-8B-Instruct"
    """Model name, as the API expects it. Published results: Qwen3-VL-8B-Instruct."""

    key_variable: str = "VLLM_API_KEY"
    """Name of the driver's environment variable that holds the API key."""

    temperature: float = 0.0
    """Sampling temperature. -1: the service's own."""

    max_tokens: int = field(default=1, metadata=at_least(1))
    """Tokens of an answer at most. Only the first one counts."""

    top_logprobs: int = field(default=20, metadata=at_least(1))
    """Likeliest tokens whose probabilities are asked for. vLLM and OpenAI give 20 at most by default."""

    def answer_options(self) -> dict[str, Any]:
        """See EndpointSettings."""
        return super().answer_options() | {"logprobs": True, "top_logprobs": self.top_logprobs}


@dataclass(frozen=True)
class GenEvalSettings(Section):
    """GenEval's detector and classifier of colours, from transformers. The report names it `GenEval (transformers)`."""

    section: ClassVar[str] = "geneval"

    detector: str = "facebook/mask2former-swin-small-coco-instance"
    """Directory or hub id of the Mask2Former for the 80 classes of COCO. Official: the same architecture, with the
    weights of mmdetection."""

    clip: str = "openai/clip-vit-large-patch14"
    """Directory or hub id of the CLIP that tells colours. Official: OpenAI's ViT-L/14."""

    threads: int = field(default=4, metadata=at_least(1))
    """CPU threads of an actor."""

    cpus: float = field(default=1.0, metadata=at_least(0))
    """Ray CPUs that an actor reserves."""

    gpus: float = field(default=0.0, metadata=gpu_count())
    """Ray GPUs that an actor reserves."""

    actors: int = field(default=1, metadata=at_least(1))
    """Actors that detect at once."""

    runtime_env: dict[str, Any] = field(default_factory=dict[str, Any])
    """Ray runtime environment of the actors: pip, env_vars and so on."""
