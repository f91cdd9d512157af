"""One level against two: equal bits, the top alone, and what is said of the difference."""

import json
import math

import jax
import numpy as np
import pytest

import vqvae_jax as vj
from experiments.compare.__main__ import Command, main
from experiments.compare.levels import findings, models, top_only
from experiments.sweep.arms import Arm, Row
from experiments.sweep.intervals import difference
from vqvae_commands.run.code_streams import quantizers
from vqvae_commands.terminal import command
from vqvae_jax.data.scaling import preprocess


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """60 images of 12 x 12 pixels."""
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (60, 12, 12, 1), np.uint8))
    return str(path)


def test_arms_of_a_table_have_equal_bits():
    for group, members in models(1, width=8, depth=0).items():
        for label, model in members.items():
            x = np.zeros((1, 28, 28, 1), np.float32)
            maps = jax.eval_shape(lambda x, m=model: m.init_with_output(jax.random.key(0), x)[0], x)
            levels = maps.indices if isinstance(maps.indices, tuple) else (maps.indices,)
            bits = sum(
                math.prod(k.shape[1:-1]) * sum(map(math.log2, q.vocab))
                for k, q in zip(levels, quantizers(model), strict=True)
            )
            assert bits == pytest.approx(float(group.split()[0]), abs=0.1), label


@pytest.mark.slow
def test_the_command(data, tmp_path):
    options = [
        "--quick",
        "--steps",
        "4",
        "--batch-size",
        "4",
        "--width",
        "8",
        "--depth",
        "0",
        "--processes",
        "1",
    ]
    args = ["levels", *options, "--data", data, "--output", str(tmp_path)]
    command.run(main, Command, args)
    found = json.loads((tmp_path / "results.json").read_text())
    one, two = (arm["seeds"][0]["numbers"] for arm in found["arms"])
    assert "top_psnr" in two and "top_psnr" not in one
    assert one["bits_uniform"] == 9 * 9 and two["bits_uniform"] == 9 * 5 + 36
    text = (tmp_path / "report.md").read_text()
    assert "A quick run" in text and "441 bits: " in text and "nan" in text  # one seed: no interval


def test_the_top_alone_is_decoded_with_zeros_below(data):
    model = models(1, width=8, depth=0)["441 bits"]["2 levels, 32 + 2"]
    test = np.load(data)
    x = preprocess(test)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    f = vj.as_functions(model)
    top = jax.jit(f.detokenize)(variables, (jax.jit(f.tokenize)(variables, x)[0], None))
    found = top_only(model, variables, test)
    assert found["top_psnr"] == pytest.approx(-10 * np.log10(np.mean((x - top) ** 2)), rel=1e-5)
    parts = {k: v for k, v in variables["params"].items() if "codes" not in k}
    assert found["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(parts))


def row(label: str, *psnr: float) -> Row:
    arm = Arm(label, label, {}, lambda: None, "9 bits")
    return Row(arm, [{"numbers": {"psnr": value}} for value in psnr])


@pytest.mark.parametrize(
    ("gain", "word"), [(0.5, "+0.50 ± 0.11 dB, better"), (-0.5, "worse"), (0.05, "undecided")]
)
def test_findings(gain, word):
    rows = [row("1 level: a", 1, 2, 3), row("1 level: b", 20.0, 20.05, 20.1)]
    rows.append(row("2 levels: c", *(x + gain for x in (20.0, 20.05, 20.1))))
    assert f"9 bits: {gain:+.2f}" in findings(rows) and word in findings(rows)


def test_the_interval_of_a_difference_is_welchs():
    """By hand: v/n = 1/3 and 4/3, so nu = (5/3)^2 / ((1/9 + 16/9) / 2)."""
    mean, half = difference([1.0, 2.0, 3.0], [0.0, 2.0, 4.0])
    nu = (5 / 3) ** 2 / ((1 / 9 + 16 / 9) / 2)
    t = 3.183 + (2.776 - 3.183) * (nu - 3) / (4 - 3)  # between the table's rows 3 and 4
    assert mean == 0 and half == pytest.approx(t * math.sqrt(5 / 3), rel=0.02)
    assert difference([1.0], [2.0, 3.0])[0] == -1.5
    assert difference([1.0, 1.0], [2.0, 2.0]) == (-1.0, 0.0)
