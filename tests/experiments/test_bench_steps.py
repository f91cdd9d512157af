"""Benchmarks of steps, of models in use and of data: how they measure, not what."""

import itertools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro

from experiments.bench import __main__ as bench
from experiments.bench import activations, memory, overhead, pipeline, serve, step
from experiments.bench.timing import Race
from vqvae_commands.run import autoencoder
from vqvae_commands.terminal import command
from vqvae_jax import vq
from vqvae_jax.training import parallel
from vqvae_jax.training.step import TrainState


def started(*arguments: str) -> None:
    command.run(bench.main, bench.Config, list(arguments))


SMALL = step.Sizes(side=8, width=4, depth=1, codes=8, dim=4, batch=2)


@pytest.mark.slow
def test_step(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(step, "QUICK", {"small": SMALL})
    monkeypatch.setattr(step, "ema_vq", lambda codes, dim, **_: vq(codes, dim))  # compiles sooner
    started("step", "--quick", "-o", str(tmp_path))
    found = json.loads((tmp_path / "step" / "results.json").read_text())
    assert found["steps"][0]["seconds"].keys() == {step.OURS, step.PLAIN}
    assert found["steps"][0]["baseline"] == step.PLAIN and len(found["skipped"]) == 1
    assert found["python"]["seconds"].keys() == {*overhead.WAYS, overhead.LOOP}


def test_a_step_that_computes_nothing_has_the_signature_of_the_step(tiny):
    x = step.pixels(SMALL)
    train_step, state = step.our_step(SMALL, x, optax.sgd(0.1))
    same = overhead.nothing(train_step, state, x)
    assert jax.eval_shape(same, state, x) == jax.eval_shape(train_step, state, x)
    new, metrics = jax.jit(same)(state._replace(step=jnp.int32(4)), x)
    chex.assert_trees_all_equal(new, state._replace(step=jnp.int32(5)))
    assert {float(m) for m in jax.tree.leaves(metrics)} == {0.0}


def test_python_is_measured_by_the_step(monkeypatch):
    """STEPS steps take 0.3 s: 3 ms each, a tenth of 30 ms."""
    times = {overhead.LOOP: [0.3, 0.3]}
    rows = overhead.table(Race("a state", overhead.LOOP, times)).rows
    assert rows == [[overhead.LOOP, "3.000 [3.000, 3.000]", "10.0%"]]


def test_the_loop_takes_its_steps_and_fetches_metrics():
    state = TrainState(jnp.zeros((), jnp.int32), *[jnp.zeros(())] * 5)

    def train_step(state, batch, axis_name=None):
        return state._replace(step=state.step + 1), {"loss": batch.sum()}

    compiled = parallel.jit_step(train_step, parallel.data_mesh())
    loop = overhead.Loop(compiled, state, np.zeros((8, 2), np.uint8))
    loop()
    loop()
    assert loop.state.step == 2 * overhead.STEPS


def test_activations(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(activations, "QUICK", {"small": SMALL})
    monkeypatch.setattr(activations, "QUICK_WAYS", [activations.Way(), activations.Way(2)])
    monkeypatch.setattr(step, "ema_vq", lambda codes, dim, **_: vq(codes, dim))
    started("activations", "--quick", "-o", str(tmp_path))
    (found,) = json.loads((tmp_path / "activations" / "results.json").read_text())["steps"]
    assert list(found["seconds"]) == ["no option", "--parts 2"]
    assert found["planned"]["--parts 2"] > 0 and found["grown"] == {}
    assert "--parts 2" in (tmp_path / "activations" / "report.md").read_text()


def test_ways_are_options_of_train():
    for way in activations.WAYS:
        options = [] if way == activations.Way() else str(way).split()
        config = tyro.cli(autoencoder.Config, args=options)
        assert (config.parts, config.dtype) == way


def test_memory_of_a_step_is_that_of_its_own_process(monkeypatch):
    asked = []

    def alone(module, text):
        asked.append((module, json.loads(text)))
        return {"grown": 5e6}

    monkeypatch.setattr(memory, "alone", alone)
    assert activations.growth(SMALL, activations.Way(2)) == 5e6
    assert asked == [("experiments.bench.activations", [list(SMALL), [2, "float32"]])]
    assert activations.size_text(5e6) == "5" and activations.size_text(None) == "-"


def test_a_process_grows_while_it_takes_steps(tiny, monkeypatch):
    monkeypatch.setattr(step, "ema_vq", lambda codes, dim, **_: vq(codes, dim))
    found = activations.grown(SMALL, activations.Way())["grown"]
    assert found is None or found >= 0


def test_serve(tiny, monkeypatch, tmp_path):
    """All give codes and pictures of the same shapes; those of the exported are ours."""
    monkeypatch.setattr(serve, "SIZES", SMALL)
    codecs, x = serve.codecs(), step.pixels(SMALL) / np.float32(255)
    codes = codecs[serve.OURS][0](x)
    pictures = codecs[serve.OURS][1](codes)
    for name in (serve.EXPORTED, serve.BARE):
        np.testing.assert_array_equal(codecs[name][0](x), codes)
        np.testing.assert_allclose(codecs[name][1](codes), pictures, atol=1e-6)
    tokenize, detokenize = codecs[serve.PLAIN]
    assert tokenize(x).shape == codes.shape[:-1] and detokenize(codes).shape == x.shape
    monkeypatch.setattr(serve, "through_files", None)  # as without flatbuffers
    assert serve.codecs(exporting=False).keys() == {serve.OURS, serve.PLAIN}
    monkeypatch.setattr(serve, "codecs", lambda exporting: codecs)
    monkeypatch.setattr(serve, "BATCHES", (2,))
    started("serve", "--quick", "-o", str(tmp_path))
    races = json.loads((tmp_path / "serve" / "results.json").read_text())["races"]
    assert [r["title"] for r in races] == ["tokenize, batch 2", "detokenize, batch 2"]
    assert all(r["seconds"].keys() == codecs.keys() for r in races)


def test_pipeline(tiny, monkeypatch, tmp_path):
    def counted(sizes, x, optimizer):
        return (lambda state, x: (state + 1, x.sum())), 0

    monkeypatch.setattr(step, "our_step", counted)
    started("pipeline", "--quick", "-o", str(tmp_path))
    found = json.loads((tmp_path / "pipeline" / "results.json").read_text())
    names = [pipeline.STEP, *(name for name, _ in pipeline.READERS)]
    assert list(found["races"][0]["seconds"]) == names
    assert found["races"][0]["baseline"] == pipeline.STEP
    names = [pipeline.ONE, *(name for name, _ in pipeline.READERS)]
    assert list(found["training"][0]["seconds"]) == names
    assert found["training"][0]["sizes"]["batch"] == 32 * pipeline.STEPS


def test_training_takes_the_next_batches():
    """Each call goes on where the last one stopped."""
    compiled = parallel.Step(lambda batch: batch, lambda state, batch: (state + batch, batch))
    steps = pipeline.Steps(compiled, 0, itertools.count())
    steps()
    steps()
    assert steps.state == sum(range(2 * pipeline.STEPS))
