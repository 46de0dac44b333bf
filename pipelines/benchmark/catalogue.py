"""All benchmarks by name, and where they are published."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.benchmark import dpg, geneval, geneval2, spatialgeneval, tiif, unigen
from pipelines.benchmark.items import Benchmark, Source
from pipelines.benchmark.tiif import TiifSet

_BENCHMARKS: Mapping[str, Benchmark] = {
    each.name: each
    for each in (
        dpg.Dpg(),
        tiif.Tiif(),
        unigen.UniGenBench("short"),
        unigen.UniGenBench("long"),
        geneval.GenEval(),
        geneval2.GenEval2(),
    )
}


def find_benchmark(name: str, tiif_set: TiifSet = "testmini", shuffle: bool = True) -> Benchmark:
    """Returns a benchmark by its name in `benchmark.names`.

    `tiif_set`: which prompts of TIIF-Bench. `shuffle`: whether the options of SpatialGenEval are shuffled.

    Raises KeyError for a name that is unknown.
    """
    if name == "spatialgeneval":
        return spatialgeneval.SpatialGenEval(shuffle)
    return tiif.Tiif(tiif_set) if name == "tiif" else _BENCHMARKS[name]


def find_source(name: str) -> Source:
    """Returns the repository in which a benchmark is published. Raises KeyError for a name that is unknown."""
    return find_benchmark(name).source
