"""The benchmark for a GPU runs on a CPU in its tiny form."""

from __future__ import annotations

import pytest

from tests.bench.gpu_reward import main


def test_the_gpu_bench_trains_scores_and_decodes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--form", "tiny", "--batch", "2", "--steps", "1", "--words", "12", "--sides", "128"])
    output = capsys.readouterr().out
    assert "16 tokens an image" in output
    assert output.count("training") == output.count("scoring") == output.count("decoding") == 1
