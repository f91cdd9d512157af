"""Semantic ids: unique, counted as by brute force, and the same after loading the model."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_bad_input import refused

import vqvae_jax as vj
from tests.commands.coders import random_variables
from vqvae_commands import semantic_ids
from vqvae_commands.semantic import residual_kmeans
from vqvae_commands.semantic.collisions import balanced

RNG = np.random.default_rng(0)
DISTINCT = RNG.normal(size=(90, 5)) * [9, 3, 1, 1, 1] + 100
X = np.concatenate([DISTINCT, DISTINCT[:7], DISTINCT[:2]])[RNG.permutation(99)].astype(np.float32)
SMALL = {"stages": 3, "codes": 6, "steps": 10}


def make(folder: Path, x: np.ndarray = X, **options):
    """The folder of ids and the report."""
    np.save(folder / "x.npy", x)
    output = folder / "ids"
    config = semantic_ids.Config(str(folder / "x.npy"), output, **SMALL | options)
    return output, semantic_ids.main(config)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("semantic"))


def tokens(folder: Path, x: np.ndarray = X) -> np.ndarray:
    """Codes from the saved model."""
    model, variables, _ = vj.load_model(folder / "model")
    return np.asarray(vj.as_functions(model).tokenize(variables, x))


def test_ids_are_unique_and_those_of_the_saved_model(made):
    folder, report = made
    ids = np.load(folder / "ids.npy")
    assert ids.dtype == np.int32 and ids.shape == (99, 4)
    assert len(set(map(tuple, ids))) == 99
    np.testing.assert_array_equal(ids[:, :3], tokens(folder))
    assert report["vocab"] == [6, 6, 6, report["collisions"]["largest"]]
    seen: Counter[tuple] = Counter()
    for *codes, number in ids.tolist():  # numbered in the order of the items
        assert number == seen[tuple(codes)]
        seen[tuple(codes)] += 1


def test_collisions_are_those_of_a_count_by_hand(made):
    folder, report = made
    counts = Counter(map(tuple, tokens(folder).tolist()))
    shared = [n for n in counts.values() if n > 1]
    expected = {"items": sum(shared), "distinct": len(counts), "largest": max(shared)}
    assert report["collisions"] == expected
    assert max(shared) >= 3 and len(shared) >= 7, "the duplicates that were planted"


def test_codes_add_up_to_what_is_explained(made):
    folder, report = made
    codes, codebooks = tokens(folder), np.load(folder / "codebooks.npy").astype(np.float64)
    assert codebooks.shape == (3, 6, 5)
    x, y = X.astype(np.float64), np.zeros(X.shape)
    for stage, row in enumerate(report["stages"]):
        residual = x - y
        nearest = np.argmin(np.square(residual[:, None] - codebooks[stage]).sum(-1), 1)
        np.testing.assert_array_equal(codes[:, stage], nearest)
        y += codebooks[stage, nearest]
        explained = 1 - np.square(x - y).sum() / np.square(x - x.mean(0)).sum()
        assert row["explained_variance"] == pytest.approx(explained, abs=1e-7)
        p = np.bincount(nearest, minlength=6) / 99
        assert row["perplexity"] == pytest.approx(np.exp(-p @ np.log(p + (p == 0))), rel=1e-5)
        assert row["used"] == row["codes"] == 6
    assert report["explained_variance"] == row["explained_variance"] > 0.95


def test_items_and_ids_map_to_each_other(made, tmp_path):
    for folder, names in ((made[0], list(range(99))), (None, [f"item,{i} é" for i in range(99)])):
        if folder is None:
            (tmp_path / "names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
            folder, _ = make(tmp_path, names=tmp_path / "names.txt")
        lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
        assert [line["item"] for line in lines] == names
        assert [line["id"] for line in lines] == np.load(folder / "ids.npy").tolist()


def test_the_same_command_gives_the_same_ids_and_replaces_them(made, tmp_path):
    before = np.load(made[0] / "ids.npy")
    folder, first = make(tmp_path)
    np.testing.assert_array_equal(np.load(folder / "ids.npy"), before)
    _, other = make(tmp_path, seed=1)
    assert other["model"] != first["model"] == made[1]["model"]
    assert {path.name for path in tmp_path.iterdir()} == {"x.npy", "ids"}


def test_earlier_ids_are_kept_when_items_are_added(made, tmp_path):
    before = np.load(made[0] / "ids.npy")
    more = np.concatenate([X, X[:5] + np.float32(0.01)])
    added, _ = make(tmp_path, more, run=made[0])
    np.testing.assert_array_equal(np.load(added / "ids.npy")[:99], before)


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """Balanced ids."""
    return make(tmp_path_factory.mktemp("balanced"), codes=10, resolve="balanced")


def test_a_loaded_model_gives_the_same_balanced_ids(spread):
    folder, report = spread
    before = np.load(folder / "ids.npy")
    again, same = make(folder.parent, run=folder, resolve="balanced")  # replaces what it reads
    np.testing.assert_array_equal(np.load(again / "ids.npy"), before)
    assert same | {"seconds": 0} == report | {"seconds": 0}


def test_balanced_ids_are_unique_and_keep_all_codes_but_the_last(spread):
    folder, report = spread
    ids, codes = np.load(folder / "ids.npy"), tokens(folder)
    assert len(set(map(tuple, ids))) == 99 and ids.shape == (99, 3)
    np.testing.assert_array_equal(ids[:, :2], codes[:, :2])
    assert report["moved"] == np.count_nonzero(ids[:, 2] != codes[:, 2]) > 0
    e = np.load(folder / "codebooks.npy").astype(np.float64)
    error = np.square(X - sum(e[i, ids[:, i]] for i in range(3))).sum()
    explained = 1 - error / np.square(X - X.mean(0, dtype=np.float64)).sum()
    assert report["explained_variance"] == pytest.approx(explained, abs=1e-7)
    assert explained < report["stages"][-1]["explained_variance"]
    for prefix in set(map(tuple, codes[:, :2])):
        rows = np.flatnonzero((codes[:, :2] == prefix).all(1))
        if len(rows) > 4:  # too many permutations
            continue
        left = X[rows] - sum(e[i, prefix[i]] for i in range(2))
        cost = np.square(left[:, None] - e[2]).sum(-1)
        each = range(len(rows))
        best = min(cost[each, list(k)].sum() for k in itertools.permutations(range(10), len(rows)))
        assert cost[each, ids[rows, 2]].sum() == pytest.approx(best, rel=1e-6)


def test_items_of_a_group_are_assigned_together_and_groups_without_collisions_are_left():
    def cost(rows):
        assert rows.tolist() == [1, 3, 4], "all that share the codes before the last"
        return np.array([[1, 8, 9], [1, 1.5, 9], [4, 1, 2]])

    codes = np.array([[0, 2], [1, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    np.testing.assert_array_equal(balanced(codes, 3, cost)[:, 1], [2, 0, 1, 1, 2])


def test_ids_may_be_left_as_they_are(tmp_path, capsys):
    folder, _ = make(tmp_path, resolve="none")
    np.testing.assert_array_equal(np.load(folder / "ids.npy"), tokens(folder))
    assert "these ids are not unique" in capsys.readouterr().out


def test_each_code_is_the_mean_of_its_rows_and_none_is_without():
    x = np.concatenate([np.repeat(X[:3], 30, axis=0), X])
    e = residual_kmeans.fit_stages(x, 2, 20, 60, 0)
    for codes in e.astype(np.float64):
        k = np.argmin(np.square(x[:, None] - codes).sum(-1), 1)
        assert set(k) == set(range(20))
        means = np.stack([x[k == i].mean(0, dtype=np.float64) for i in range(20)])
        np.testing.assert_allclose(codes, means, atol=1e-4)
        x = (x - codes[k]).astype(np.float32)


def test_codes_that_lost_their_rows_get_others(monkeypatch):
    """Whatever k-means starts from, with few distinct rows among many equal ones."""
    x = np.concatenate([np.repeat(X[:1], 50, axis=0), np.repeat(9 * X[1:3], 20, axis=0), X[3:9]])
    monkeypatch.setattr(residual_kmeans, "spread_rows", lambda key, z, n: np.repeat(z[:1], n, 0))
    (e,) = residual_kmeans.fit_stages(x, 1, 9, 5, 0)
    assert set(np.asarray(vj.nearest(x, e)).tolist()) == set(range(9))
    assert len(np.unique(x, axis=0)) == 9, "as many as there can be"


def test_fewer_distinct_rows_than_codes_are_the_codes_themselves(tmp_path, capsys):
    x = np.repeat(np.float32([[0, 0], [1e-3, 7], [5, 5]]), 4, axis=0)
    folder, report = make(tmp_path, x, codes=5)
    assert report["stages"][0] | {"perplexity": 3} == {
        "explained_variance": 1, "codes": 5, "used": 3, "perplexity": 3
    }  # fmt: skip
    assert report["collisions"] == {"items": 12, "distinct": 3, "largest": 4}
    assert len(set(map(tuple, np.load(folder / "ids.npy")))) == 12
    assert "2 of 5 codes of stage 1 are unused" in capsys.readouterr().out


def test_codes_of_a_model_of_ones_own(tmp_path):
    quantizer = vj.residual(vj.vq(3, 4), vj.vq(5, 4))
    model = vj.VQVAE(vj.MLP(4, 8, 1), quantizer, vj.MLP(5, 8, 1))
    vj.save_model(tmp_path / "own", model, random_variables(model, 5))
    folder, report = make(tmp_path, X[:5], run=tmp_path / "own", resolve="balanced")
    ids = np.load(folder / "ids.npy")
    np.testing.assert_array_equal(ids[:, 0], tokens(folder, X[:5])[:, 0])
    assert len(set(map(tuple, ids))) == 5 and report["vocab"] == [3, 5]
    assert np.load(folder / "codebooks.npy").shape == (2, 5, 4)
    assert np.isnan(np.load(folder / "codebooks.npy")[0, 3:]).all()


def text(tmp: Path, *lines: str) -> list[str]:
    (tmp / "names.txt").write_text("\n".join(lines))
    return ["--names", str(tmp / "names.txt")]


def with_notes(tmp: Path) -> list[str]:
    (tmp / "ids").mkdir()
    (tmp / "ids/notes.txt").write_text("mine")
    return []


def saved(tmp: Path, model, *shape: int) -> list[str]:
    vj.save_model(tmp / "m", model, random_variables(model, *shape))
    return ["--run", str(tmp / "m")]


HOLE = np.where(np.arange(99)[:, None] >= 97, np.nan, X)
NARROW = vj.VQVAE(vj.models.Identity(), vj.vq(3, 4), vj.models.Identity())
BOUNDED = NARROW.clone(quantizer=vj.vq(3, 5), domain=vj.values(0, float(X[4:].max()) - 1e-3))
BAD = {
    "no array": (None, lambda tmp: [], "x.npy: expected a .npy array, found"),
    "one axis": (X[0], lambda tmp: [], "expected numbers of shape [N, D], found float32 (5,)"),
    "no rows": (X[:0], lambda tmp: [], "found float32 (0, 5)"),
    "text": (np.array([["a"]]), lambda tmp: [], "expected numbers of shape [N, D], found <U1"),
    "not finite": (HOLE, lambda tmp: [], "others in row 97, the first of 2 such rows"),
    "no stages": (X, lambda tmp: ["--stages", "0"], "stages must be an integer >= 1, got 0"),
    "other files": (X, with_notes, "expected a new folder or one of ids, found other files"),
    "few names": (X, lambda tmp: text(tmp, "a", "b"), "expected 99 names, one for each row"),
    "equal names": (X[:3], lambda tmp: text(tmp, *"aba"), "found 'a' in lines 1 and 3"),
    "large group": (
        np.repeat(X, 4, 0)[:9],
        lambda tmp: ["--stages=2", "--codes=3", "--resolve=balanced"],
        "expected at most 3 items, one for each last code, with the same codes before it, found 4",
    ),
    "no run": (X, lambda tmp: ["--run", str(tmp)], "expected the folder of a run"),
    "no codes": (X, lambda tmp: saved(tmp, vj.Autoencoder(vj.MLP(2), vj.MLP(5)), 5), "a VQVAE"),
    "another width": (X, lambda tmp: saved(tmp, NARROW, 4), "as wide as the quantizer"),
    "out of range": (X, lambda tmp: saved(tmp, BOUNDED, 5), "rows in the range of the model's"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_written(name, tmp_path, capsys, as_users):
    x, options, message = BAD[name]
    if x is None:
        (tmp_path / "x.npy").write_text("1, 2, 3")
    else:
        np.save(tmp_path / "x.npy", x)
    arguments = [str(tmp_path / "x.npy"), "-o", str(tmp_path / "ids"), *options(tmp_path)]
    before = sorted(tmp_path.rglob("*"))
    error = refused(capsys, semantic_ids.main, semantic_ids.Config, arguments)
    assert message in error
    assert sorted(tmp_path.rglob("*")) == before
