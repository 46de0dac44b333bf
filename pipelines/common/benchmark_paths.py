"""The files and folders of the benchmarks in a run directory. `RunPaths` (pipelines/common/paths.py) has them, too."""

from __future__ import annotations

from pathlib import Path

from pipelines.common.stage_paths import StagePaths


class BenchmarkPaths(StagePaths):
    """Benchmarks: images by side, judgements by judge, and the report. A side is a model whose images are judged."""

    @property
    def benchmark(self) -> Path:
        """Folder: everything that the benchmarks write."""
        return self.root / "benchmark"

    @property
    def benchmark_data(self) -> Path:
        """Folder: the held-out prompts of the scenes world, in the formats of the benchmarks."""
        return self.benchmark / "data"

    @property
    def benchmark_export(self) -> Path:
        """Folder: images in the official layouts."""
        return self.benchmark / "export"

    def benchmark_side(self, side: str) -> str:
        """Name of a side in folders: "policy" becomes "policy-<version>" for a policy version that was asked for."""
        return side if side != "policy" or self.version is None else f"policy-{self.version}"

    def benchmark_images(self, name: str, side: str) -> Path:
        """Folder: the images of one benchmark by one model, `<item>_<number>.png`."""
        return self.benchmark / name / "images" / self.benchmark_side(side)

    def benchmark_judged(self, name: str, judge: str) -> Path:
        """Folder: the judgements of one benchmark by one judge."""
        return self.benchmark / name / "judged" / judge

    def benchmark_judgements(self, name: str, judge: str, side: str) -> Path:
        """Parquet file: the judgements of one side. Beside it lie its `.manifest.json` and the folder `.parts`."""
        return self.benchmark_judged(name, judge) / f"{self.benchmark_side(side)}.parquet"

    def benchmark_measured(self, name: str, measure: str) -> Path:
        """JSON file: a measure of policy against base on the images of one benchmark. Beside it: folder `.parts`."""
        return self.benchmark / name / "measured" / self.benchmark_side("policy") / f"{measure}.json"

    @property
    def benchmark_results(self) -> Path:
        """JSON file: all cells of the newest report."""
        return self.benchmark / "benchmark.json"

    @property
    def benchmark_section(self) -> Path:
        """HTML fragment: the report as a section of the evaluation's page."""
        return self.benchmark / "section.html"

    @property
    def benchmark_report(self) -> Path:
        """HTML file: the report."""
        return self.benchmark / "report.html"
