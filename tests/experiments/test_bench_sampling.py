"""The benchmark of sampling, of milliseconds."""

import json

import pytest

from experiments.bench import __main__ as bench
from experiments.bench import sampling
from vqvae_commands.terminal import command


@pytest.mark.slow
def test_sampling(tiny, monkeypatch, tmp_path):
    small = sampling.PriorSizes(
        2, batch=2, codes=4, width=4, depth=1, heads=1, pixelcnn_depth=1, rounds=2
    )
    monkeypatch.setattr(sampling, "QUICK", (small, small._replace(side=3, pixelcnn_depth=0)))
    monkeypatch.setattr(sampling, "BARS", {2: 4.0})
    command.run(bench.main, bench.Config, ["sampling", "--quick", "-o", str(tmp_path)])
    found = json.loads((tmp_path / "sampling" / "results.json").read_text())
    first, second = found["races"]
    assert first["baseline"] == sampling.CACHED and first["sizes"]["side"] == 2
    assert first["seconds"].keys() - second["seconds"].keys() == {sampling.PIXELCNN}
    assert second["seconds"].keys() == {sampling.CACHED, sampling.UNCACHED, sampling.MASKED}
    assert all(len(s) == small.rounds for s in first["seconds"].values())
    text = (tmp_path / "sampling" / "report.md").read_text()
    assert "2 x 2 = 4 codes of 4, batch 2" in text and "sampling.png" in text
    assert text.count("The cache must make sampling 4 times as fast at least: it is") == 1
