"""Priors over the codes of a run: what they are measured to be, and that they go on bit for bit."""

import dataclasses
import json
import math
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_runs import CLASSES, one_level, two_levels, write_idx, write_run
from compiling import jit
from test_train import StopAt

from vqvae_commands.data.data_options import DataOptions
from vqvae_commands.generation import bits_table, code_bits, prior_recipe, prior_training
from vqvae_commands.generation.code_files import Codes, open_codes
from vqvae_commands.run import resumable
from vqvae_commands.run.run_folder import ConfigChanged, open_run, read_lines
from vqvae_jax import BundleError, load_model, save_model
from vqvae_jax.priors import Condition, MaskedPrior, PixelCNN, log_likelihood
from vqvae_jax.priors.losses import CodeBatch
from vqvae_jax.training.checkpoint import Checkpoints
from vqvae_jax.training.parallel import data_mesh
from vqvae_jax.training.step import start_state

TINY = {"width": 8, "depth": 1, "heads": 2, "batch_size": 8, "warmup": 2, "views": 0}
EVERY = {"steps": 6, "log_every": 1, "eval_every": 2, "save_every": 3}
SHORT = {"steps": 2, "dropout": 0.0, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_idx(tmp_path_factory.mktemp("data") / "idx")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Two levels, and the priors of both, trained without a stop at a rate that is too high."""
    run = write_run(tmp_path_factory.mktemp("run") / "levels", data, two_levels())
    prior_training.train_priors(config(run))
    return run


likelihood = jit(log_likelihood, static_argnums=0)


def config(run, **options) -> prior_training.Config:
    return prior_training.Config(run, **(TINY | EVERY | {"learning_rate": 0.1} | options))


def copy(run, to):
    """The run without priors."""
    return shutil.copytree(run, to / "run", ignore=shutil.ignore_patterns("prior"))


def tables(run):
    return [json.loads((run / f"prior/level{i}/evaluation.json").read_text()) for i in range(2)]


def test_a_prior_for_each_level(run):
    """Each is told the class, and all coarser levels."""
    label = np.arange(2)
    for level, coarse in enumerate([(), (((2, 2), (4, 8)),)]):
        folder = run / f"prior/level{level}"
        for name in ("config.json", "evaluation.json", "timing.jsonl", "tensorboard"):
            assert (folder / name).exists(), name
        prior, variables, _ = load_model(folder / "model")
        assert prior.coarse == coarse and prior.classes == CLASSES
        maps = tuple(jnp.zeros((2, *grid, len(vocab)), jnp.int32) for grid, vocab in coarse)
        codes = jnp.zeros((2, *prior.grid, len(prior.vocab)), jnp.int32)
        jax.eval_shape(prior.apply, variables, codes, Condition(jnp.asarray(label), maps))
        options = json.loads((folder / "config.json").read_text())
        assert options["level"] == level
        assert options["model"] == load_model(run / "model").sha256


def test_bits_are_those_of_log_likelihood(run):
    """Of all items of a split at once; in batches that do not fit them, by `prior_bits`."""
    codes = open_codes(run / "codes")
    for level, table in enumerate(tables(run)):
        prior, variables, _ = load_model(run / f"prior/level{level}/model")
        variables = jax.tree.map(jnp.asarray, variables)
        held = prior_recipe.held_out(codes.label("train"), 60)
        rows = {"train": ~held, "validation": held, "test": slice(None)}
        for name, chosen in rows.items():
            split = "test" if name == "test" else "train"
            maps = tuple(jnp.asarray(k[chosen], jnp.int32) for k in codes.maps[split])
            condition = Condition(jnp.asarray(codes.label(split)[chosen]), maps[:level])
            nats = -likelihood(prior, variables, maps[level], condition)
            bits = float(jnp.mean(nats)) / math.log(2)
            np.testing.assert_allclose(table[f"{name}_bits"], bits, rtol=1e-5)
            whole = CodeBatch(np.asarray(maps[level]), jax.tree.map(np.asarray, condition))
            again = code_bits.prior_bits(prior, variables, whole, batch_size=7)
            np.testing.assert_allclose(again, bits, rtol=1e-5)


def test_bits_without_a_prior_by_hand(run):
    """Static ones are those under the histogram of the training set, with one added to each."""
    maps = open_codes(run / "codes").maps
    expected = []
    for level, vocab in enumerate(((4, 8), (16,))):
        bits = 0.0
        for q, size in enumerate(vocab):
            n = np.bincount(maps["train"][level][..., q].ravel(), minlength=size) + 1.0
            bits -= np.log2(n / n.sum())[maps["test"][level][..., q]].sum() / 20
        expected.append(bits)
    np.testing.assert_allclose([t["static_bits"] for t in tables(run)], expected, rtol=1e-5)
    assert [t["uniform_bits"] for t in tables(run)] == [4 * (2 + 3), 16 * 4]


def test_the_table_has_sums(run):
    a, b = tables(run)
    _, _, (name, *numbers) = bits_table.table_rows([a, b])
    assert name == "all" and numbers[0] == f"{4 * 5 + 64:.1f}"
    below = 1 - (a["test_bits"] + b["test_bits"]) / (a["static_bits"] + b["static_bits"])
    assert numbers[-1] == f"{below:.1%}"


def test_the_best_prior_is_kept(run, data, tmp_path):
    """By the items held out; the last ones of level 1 are worse at this rate."""
    for level, table in enumerate(tables(run)):
        lines = read_lines(run / f"prior/level{level}/metrics.jsonl")
        assert [x["step"] for x in lines if "train/bits" in x] == list(range(1, 7))
        found = {x["step"]: x["validation/bits"] for x in lines if "validation/bits" in x}
        assert list(found) == [2, 4, 6]
        assert table["validation_bits"] == min(found.values())
    again = write_run(tmp_path / "run", data)
    table = prior_training.train_priors(config(again, learning_rate=3.0, steps=4))[0]
    lines = read_lines(again / "prior/level0/metrics.jsonl")
    first, last = (x["validation/bits"] for x in lines if "validation/bits" in x)
    assert first < last and table["validation_bits"] == first


def test_a_stopped_run_goes_on_bit_for_bit(run, tmp_path, monkeypatch, capsys):
    """Stopped in the first level, then in the second."""
    again = copy(run, tmp_path)
    for at in (4, 2 + 5):
        with monkeypatch.context() as patch:
            patch.setattr(resumable, "Interrupt", StopAt(at))
            with pytest.raises(SystemExit) as stop:
                prior_training.train_priors(config(again))
        assert stop.value.code == 128 + signal.SIGINT
        assert "the same command continues" in capsys.readouterr().out
    found = prior_training.train_priors(config(again))
    assert found == tables(run)
    for level in range(2):
        a, b = (r / f"prior/level{level}" for r in (run, again))
        assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
        assert load_model(a / "model").sha256 == load_model(b / "model").sha256
        states = [last_state(folder, run, level) for folder in (a, b)]
        jax.tree.map(np.testing.assert_array_equal, *states)


def last_state(folder, run, level):
    """Every array of the last checkpoint."""
    codes = open_codes(run / "codes")
    prior = prior_recipe.prior_model(config(run), codes, level)
    example = prior_recipe.items(codes.maps["test"], codes.label("test"), level)
    example = jax.tree.map(jnp.asarray, example)
    optimizer = prior_recipe.prior_optimizer(config(run))
    like = start_state(lambda k: prior.init(k, *example[:2]), optimizer, jax.random.key(0))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return jax.tree.map(np.asarray, checkpoints.restore(like))


@pytest.fixture(scope="module")
def by_jit(data, tmp_path_factory):
    """A run of two steps without dropout, whose masks are each device's own."""
    run = write_run(tmp_path_factory.mktemp("by_jit") / "run", data)
    prior_training.train_priors(config(run, name="jit", **SHORT))
    return run


@pytest.mark.parametrize("how", [pytest.param("shard_map", marks=pytest.mark.slow), "pmap"])
def test_parallel_modes_agree_with_jit(how, by_jit):
    """Eight devices."""
    assert data_mesh().size == 8
    prior_training.train_priors(config(by_jit, name=how, parallel=how, **SHORT))
    found = [load_model(by_jit / name / "level0/model").variables for name in ("jit", how)]
    for x, y in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("kind, cls", [("pixelcnn", PixelCNN), ("masked", MaskedPrior)])
def test_other_priors_learn(data, tmp_path, kind, cls):
    run = write_run(tmp_path / "run", data)
    often = {"steps": 60, "log_every": 10, "eval_every": 60, "save_every": 60}
    (table,) = prior_training.train_priors(config(run, prior=kind, learning_rate=0.03, **often))
    assert isinstance(load_model(run / "prior/level0/model").model, cls)
    assert table["test_bits"] < 0.9 * table["uniform_bits"]


def test_the_items_held_out_are_seen_by_no_step(data, tmp_path, monkeypatch):
    """Nor is any view of them: codes that say which item they are of."""
    run, seen = write_run(tmp_path / "run", data), []

    def no_training(folder, config, model, train_step, state, batches, *_):
        for batch, _ in zip(batches(0), range(30), strict=False):
            codes, label = batch.codes.ravel().tolist(), batch.condition.label.tolist()
            seen.extend(zip(codes, label, strict=True))
        raise KeyboardInterrupt

    def views(config, bundle, codes):
        return [(np.arange(100, 160).reshape(60, 1, 1, 1),)]

    names = np.arange(60).reshape(60, 1, 1, 1)
    prior_training.codes_of(run, open_run(run)[0])
    codes = open_codes(run / "codes")
    codes = codes._replace(maps=codes.maps | {"train": (names,)}, levels=(((1, 1), (160,)),))
    monkeypatch.setattr(prior_training, "codes_of", lambda *_, **given: codes)
    monkeypatch.setattr(prior_training, "make_views", views)
    monkeypatch.setattr(resumable, "run_training", no_training)
    with pytest.raises(KeyboardInterrupt):
        prior_training.train_priors(config(run))
    label = codes.label("train")
    held = prior_recipe.held_out(label, 60)
    assert held.sum() == CLASSES * 2  # a tenth of 20, of each class
    expected = {(i + at, label[i]) for i in np.flatnonzero(~held) for at in (0, 100)}
    assert set(seen) == expected


def test_held_out():
    label = np.array([0, 1] * 10 + [0] * 10)
    np.testing.assert_array_equal(np.flatnonzero(prior_recipe.held_out(label, 30)), [19, 28, 29])
    np.testing.assert_array_equal(np.flatnonzero(prior_recipe.held_out(None, 25)), [23, 24])


def test_views_are_codes_of_changed_pictures(data, tmp_path):
    """The same in each call, different from each other, and none without."""
    run = write_run(tmp_path / "run", data)
    bundle, _ = open_run(run)
    codes = prior_training.codes_of(run, bundle)
    first, again = (prior_training.make_views(config(run, views=2), bundle, codes) for _ in "ab")
    for (a,), (b,) in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == codes.maps["train"][0].shape
        assert 0.02 < np.mean(a != codes.maps["train"][0]) < 1
    assert np.any(first[0][0] != first[1][0])
    assert prior_training.make_views(config(run, views=0), bundle, codes) == []


def test_codes_of_another_model(run, tmp_path, capsys):
    """They are made again; priors of the old ones are neither continued nor sampled."""
    again = shutil.copytree(run, tmp_path / "run")
    bundle = load_model(again / "model")
    other = jax.tree.map(lambda x: x * 1.5, bundle.variables)
    digest = save_model(again / "model", bundle.model, other)
    with pytest.raises(BundleError, match="expected a prior of the codes of model"):
        prior_recipe.load_priors(again, "prior", digest, 2)
    with pytest.raises(ConfigChanged, match=r"holds another run; use --name\. model: "):
        prior_training.train_priors(config(again))
    assert "is of another model and is made again" in capsys.readouterr().out
    assert open_codes(again / "codes").model == digest
    assert len(prior_recipe.load_priors(run, "prior", bundle.sha256, 2)) == 2
    with pytest.raises(BundleError, match="expected a prior, found none; run `vqvae prior"):
        prior_recipe.load_priors(run, "others", bundle.sha256, 2)


def test_another_configuration_is_refused(run):
    with pytest.raises(ConfigChanged, match="width: 8 there, 16 now"):
        prior_training.train_priors(config(run, width=16))


def test_bits_of_a_masked_prior():
    """Of two codes one is masked, either one, or both are: each as often, and by hand."""
    prior = MaskedPrior((4,), (1, 2), width=4, depth=1, heads=1)
    codes, rng = np.zeros((3000, 1, 2, 1), np.int32), np.random.default_rng(1)
    shapes = jax.eval_shape(prior.init, jax.random.key(0), jnp.asarray(codes[:1]))
    variables = jax.tree.map(lambda s: jnp.float32(rng.normal(size=s.shape)), shapes)
    seen = jnp.array([[-1, 0], [0, -1], [-1, -1]]).reshape(3, 1, 2, 1)
    bits = -jax.nn.log_softmax(jit(prior.apply)(variables, seen))[:, 0, :, 0, 0] / math.log(2)
    expected = ((2 * bits[0, 0] + 2 * bits[1, 1]) / 2 + bits[2].sum()) / 2
    found = code_bits.prior_bits(prior, variables, CodeBatch(codes), 500)
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_uniform_bits_of_a_masked_prior():
    """Where all logits are equal, each order says log2 K for each code."""
    prior = MaskedPrior((8,), (2, 2), width=4, depth=1, heads=1)
    codes = np.zeros((3, 2, 2, 1), np.int32)
    shapes = jax.eval_shape(prior.init, jax.random.key(0), jnp.asarray(codes))
    zero = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    np.testing.assert_allclose(code_bits.prior_bits(prior, zero, CodeBatch(codes), 2), 4 * 3)


def test_codes_without_a_grid():
    """Those of vectors, one an item: a grid of one place, in all levels."""
    maps = {"train": (np.zeros((5, 1), np.int16), np.ones((5, 2), np.int16)), "test": ()}
    codes = Codes(maps, {}, (), (((), (8,)), ((), (4, 2))), "", DataOptions(""))
    prior = prior_recipe.prior_model(config(Path()), codes, 1)
    assert prior.grid == (1,) and prior.coarse == (((1,), (8,)),) and prior.classes == 0
    found = prior_recipe.items(maps["train"], None, 1)
    assert found.codes.shape == (5, 1, 2) and found.condition.coarse[0].shape == (5, 1, 1)
    jax.eval_shape(prior.init, jax.random.key(0), *jax.tree.map(jnp.asarray, found[:2]))


@pytest.mark.parametrize(
    "option", [{"steps": 0}, {"views": -1}, {"weight_decay": -1.0}, {"eval_every": 0}]
)
def test_options_out_of_range(option, tmp_path):
    with pytest.raises(ValueError, match=next(iter(option))):
        prior_training.train_priors(config(tmp_path, **option))


def test_config_of_one_level_has_all_options(run):
    names = {field.name for field in dataclasses.fields(prior_training.Config)}
    options = json.loads((run / "prior/level1/config.json").read_text())
    assert names < set(options) and one_level().quantizer.vocab == (16,)
