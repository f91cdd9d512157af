"""The ablations through their command, their pages, what was recorded, and the papers' scales."""

import csv
import dataclasses
import json
import re
from functools import partial

import jax
import numpy as np
import pytest

from experiments import ablate
from experiments.ablate import Config
from experiments.ablations import ABLATIONS
from experiments.ablations.checking import prediction
from experiments.ablations.findings import study_of
from experiments.ablations.loss_terms import blocked
from experiments.sweep import arms, training_budget
from experiments.sweep.arm_metrics import SHOWN
from experiments.sweep.intervals import interval
from vqvae_commands.run.recipe import make_optimizer
from vqvae_commands.terminal import command
from vqvae_jax import from_json, to_json
from vqvae_jax.likelihoods import task_loss
from vqvae_jax.training.step import init_state, make_train_step


def run(*args: str) -> None:
    command.run(ablate.main, Config, [*args, "--seeds", "3", "--processes", "1"])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """60 images of 12 x 12 pixels."""
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (60, 12, 12, 1), np.uint8))
    return str(path)


@pytest.fixture
def fast(monkeypatch):
    """Arms that are not trained: a number that depends on arm and seed."""
    trained = []

    def trainer(model, budget, more=None, **options):
        size = float(len(str(model.quantizer)))

        def run(seed):
            trained.append((str(model.quantizer), budget.learning_rate, seed))
            numbers = {"psnr": 20 + size / 100 + 0.01 * seed, "used": 0.5, "perplexity": size}
            return arms.Result(numbers, training_budget.images(budget.data)[1][:SHOWN])

        return run

    monkeypatch.setattr("experiments.ablations.settings.trainer", trainer)
    return trained


@pytest.mark.core
def test_losses_in_a_quick_run(data, tmp_path):
    """The whole of one, trained."""
    run("losses", "--quick", "--steps", "5", "--data", data, "--output", str(tmp_path))
    found = json.loads((tmp_path / "losses" / "results.json").read_text())
    assert len(found["arms"]) == 4
    for arm in found["arms"]:
        (seed,) = arm["seeds"]
        assert seed["status"] == "done" and 5 < seed["numbers"]["psnr"] < 30
    text = (tmp_path / "losses" / "report.md").read_text()
    assert "A quick run of 5 steps" in text and text.count("| undecided |") == 3
    assert "python -m experiments.ablate losses --quick" in text
    assert "arXiv:1711.00937" in text.splitlines()[-1]
    summary = (tmp_path / "README.md").read_text()
    assert summary.count("**undecided**") == 3 and "(losses/report.md)" in summary


def test_what_papers_take(fast, tmp_path):
    run("losses", "--output", str(tmp_path))
    folder = tmp_path / "losses"
    lines = list(csv.DictReader((folder / "results.csv").open()))
    assert len(lines) == 4 * 3 and {line["seed"] for line in lines} == {"0", "1", "2"}
    first = json.loads((folder / "results.json").read_text())["arms"][0]
    assert float(lines[0]["psnr"]) == first["seeds"][0]["numbers"]["psnr"]
    table = (folder / "table.tex").read_text()
    assert table.startswith(r"\begin{tabular}{lrrrrrr}") and table.count(r"$\pm$") >= 4
    assert "no commitment & " in table and "_" not in table.replace(r"\_", "")
    for name in ("intervals", "pictures"):
        assert (folder / "pictures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / "pictures" / f"{name}.png").exists()
    page = (folder / "report.html").read_text()
    assert "Findings" in page and "Training needs the commitment term." in page
    assert re.search(r"Cite: vqvae_jax [\d.]+, ablation losses", (folder / "report.md").read_text())


def test_no_arm_is_run_twice(fast, tmp_path, monkeypatch):
    """Ended after two arms, started again: each arm once, results as of a run without an end."""
    run("restart", "--output", str(tmp_path / "whole"))
    whole = list(fast)
    fast.clear()
    real, calls = arms.write_text, []

    def write_text(path, text):
        if len(calls) == 5:
            raise KeyboardInterrupt  # as the sixth result is about to be written
        calls.append(path)
        real(path, text)

    monkeypatch.setattr(arms, "write_text", write_text)
    with pytest.raises(SystemExit):
        run("restart", "--output", str(tmp_path / "parts"))
    monkeypatch.setattr(arms, "write_text", real)
    run("restart", "--output", str(tmp_path / "parts"))
    assert len(fast) == len(whole) + 1 and set(fast) == set(whole)  # that one was not written

    def numbers(folder):
        found = json.loads((folder / "restart" / "results.json").read_text())["arms"]
        return [[seed["numbers"] for seed in arm["seeds"]] for arm in found]

    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    fast.clear()
    run("restart", "--output", str(tmp_path / "parts"))
    assert not fast


def test_all_of_them_and_the_summary(fast, tmp_path, monkeypatch):
    chosen = {name: ABLATIONS[name] for name in ("losses", "code-dim")}
    monkeypatch.setattr(ablate, "ABLATIONS", chosen)
    run("all", "--output", str(tmp_path))
    summary = (tmp_path / "README.md").read_text()
    claims = sum(len(ablation.claims) for ablation in chosen.values())
    assert f"{claims} claims: " in summary
    words = re.findall(r"\*\*(reproduced|not reproduced|undecided)\*\*", summary)
    assert len(words) == claims
    for word in set(words):
        assert f"{words.count(word)} {word}" in summary


def test_names(capsys):
    run("list")
    shown = capsys.readouterr().out
    assert all(name in shown for name in ABLATIONS)
    with pytest.raises(SystemExit) as end:
        run("losses", "nothing")
    assert end.value.code == 2
    assert "no ablation nothing; there are losses, beta" in capsys.readouterr().err


def test_curves_have_the_intervals_of_their_arms(fast, tmp_path):
    ablation = ABLATIONS["code-dim"]
    run("code-dim", "--output", str(tmp_path))
    rows = arms.collect(ablation.make_arms(ablation.default), tmp_path / "code-dim", range(3))
    (figure,) = ablation.draw(rows).values()
    psnr = figure.axes[0]
    assert [text.get_text() for text in psnr.get_legend().get_texts()] == ["Euclidean", "Length 1"]
    x, y = psnr.containers[0].lines[0].get_data()
    assert list(x) == [2, 4, 8, 16, 64, 256]
    means = [interval(row.values("psnr"))[0] for row in rows if row.arm.group == "Euclidean"]
    np.testing.assert_allclose(y, means)


# check --------------------------------------------------------------------------------------------


def test_a_new_seed_lies_where_the_recorded_ones_do(fast, tmp_path, capsys):
    run("beta", "--output", str(tmp_path / "docs"))
    recorded = ["--recorded", str(tmp_path / "docs"), "--output", str(tmp_path / "new")]
    fast.clear()
    run("check", "beta", *recorded)
    assert len(fast) == 2 and {seed for _, _, seed in fast} == {3}
    shown = capsys.readouterr().out
    assert "inside" in shown and "outside" not in shown
    path = tmp_path / "docs" / "beta" / "results.json"
    found = json.loads(path.read_text())
    for arm in found["arms"]:
        for seed in arm["seeds"]:
            seed["numbers"]["psnr"] += 1
    path.write_text(json.dumps(found))
    with pytest.raises(SystemExit, match="2 numbers lie outside"):
        run("check", "beta", *recorded)


def test_what_was_not_recorded_can_not_be_checked(fast, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("check", "beta", "--recorded", str(tmp_path))
    assert "expected the record of arms with two seeds" in capsys.readouterr().err
    run("beta", "--output", str(tmp_path))
    with pytest.raises(SystemExit):
        run("check", "beta", "--recorded", str(tmp_path), "--steps", "7")
    assert "is not what" in capsys.readouterr().err


def test_the_prediction_holds_as_often_as_it_says():
    x = np.random.default_rng(0).normal(size=(4000, 4))
    hits = [abs(new - mean) <= half for *old, new in x for mean, half in [prediction(old, 0.2)]]
    assert np.mean(hits) == pytest.approx(0.8, abs=0.02)


# The papers' scales -------------------------------------------------------------------------------

NAMES = {"blocked": blocked}  # of the arms, not public
SIDES = {"cifar10": 32, "imagenet_resized/64x64": 64}


class Labels:
    def read(self, split):
        return np.arange(4, dtype=np.int32)


@pytest.fixture
def paper_images(monkeypatch, tmp_path):
    """Fake images of the shapes that the papers' sets have, with labels."""

    def load(options):
        side = SIDES.get(options.data, 28)
        x = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
        return x, x

    monkeypatch.setattr(training_budget, "load_data", load)
    monkeypatch.setattr(training_budget, "open_labels", lambda name: Labels())
    monkeypatch.chdir(tmp_path)
    training_budget.images.cache_clear(), training_budget.labelled.cache_clear()
    yield
    training_budget.images.cache_clear(), training_budget.labelled.cache_clear()


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_papers_scale_has_the_arms_of_the_default(name, paper_images):
    ablation = ABLATIONS[name]
    made = ablation.make_arms(ablation.paper)
    assert [arm.name for arm in made] == [a.name for a in ablation.make_arms(ablation.default)]
    for arm in made:
        model = json.dumps(arm.definition["model"])
        assert json.loads(to_json(from_json(model, NAMES), NAMES)) == arm.definition["model"]


QUICKEST = "sonnet"  # to compile


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != QUICKEST)) for n in ABLATIONS]
)
def test_the_papers_scale_builds_and_steps(name, paper_images):
    """One arm is traced with the paper's batch, and makes a step with a small one."""
    ablation = ABLATIONS[name]
    made = ablation.make_arms(ablation.paper)
    parts = {k: json.dumps(made[-1].definition.get(k)) for k in ("model", "likelihood")}
    likelihood = from_json(parts["likelihood"])
    losses = (task_loss(likelihood), likelihood.mean) if likelihood else ()
    trace_step(from_json(parts["model"], NAMES), ablation.paper, *losses)
    small = {"steps": 1, "batch_size": 2, "test_images": 2, "fast_compile": True}
    arm = ablation.make_arms(dataclasses.replace(ablation.paper, **small))[-1]
    record = arms.run_arm(arm, 0, arm.prepare())
    assert record["status"] == "done", record["reason"]
    assert record["numbers"]["psnr"] > 0


def test_the_papers_own_numbers_are_asked_for_on_its_own_data(paper_images):
    sonnet = ABLATIONS["sonnet"]
    for setting, more in ((sonnet.default, 0), (sonnet.paper, len(sonnet.of_paper))):
        head, *lines = study_of("sonnet", sonnet, setting, "command", 3, []).findings
        assert len(lines) == len(sonnet.claims) + more and more != 1
        assert all(len(line) == len(head) and line[-1] == "undecided" for line in lines)


def trace_step(model, setting, *losses) -> None:
    """One step of the paper's batch, in shapes alone."""
    side, optimizer = SIDES[setting.data], make_optimizer(setting.budget())
    x = jax.ShapeDtypeStruct((setting.batch_size, side, side, 3), np.uint8)
    start = partial(init_state, model, optimizer, example=np.zeros((1, side, side, 3), np.uint8))
    state = jax.eval_shape(start, jax.random.key(0))
    new, metrics = jax.eval_shape(make_train_step(model, optimizer, *losses), state, x)
    assert jax.tree.map(lambda a: a.shape, new) == jax.tree.map(lambda a: a.shape, state)
    assert metrics["loss"].shape == ()
