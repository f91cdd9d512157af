"""Codes of whole data sets: what is written is what the model says, whole, and damage shows."""

import json
import math
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_runs import CLASSES, two_levels, write_idx, write_run

import vqvae_jax as vj
from vqvae_commands import tokenize
from vqvae_commands.data.data_options import DataOptions
from vqvae_commands.generation import code_files, codes_of_data
from vqvae_commands.generation.code_files import Codes, open_codes, smallest, write_codes
from vqvae_commands.run.run_folder import open_run
from vqvae_jax import BundleError, load_model
from vqvae_jax.data.labels import open_labels
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.records import sha256
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.data.sources import open_source


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_idx(tmp_path_factory.mktemp("data") / "idx")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of two levels, whose codes are in run/codes."""
    run = write_run(tmp_path_factory.mktemp("run") / "levels", data, two_levels())
    tokenize.main(tokenize.Config(run, batch_size=7))
    return run


def handmade(**changes) -> Codes:
    """4 and 2 items, codes of one place in two streams and of 2 x 1."""
    top = np.array([[0, 1], [0, 1], [0, 1], [2, -1]]).reshape(4, 1, 1, 2)
    low = np.array([[5, 5], [5, 5], [5, 6], [5, 5]]).reshape(4, 2, 1, 1)
    maps = {"train": (top, low), "test": (top[2:], low[2:])}
    labels = {"train": np.arange(4, dtype=np.int32), "test": np.array([1, 0], np.int32)}
    levels = (((1, 1), (4, 2)), ((2, 1), (8,)))
    codes = Codes(maps, labels, ("a", "b", "c", "d"), levels, "sha", DataOptions("source"))
    return codes._replace(**changes)


def assert_equal(a: Codes, b: Codes):
    assert a[2:] == b[2:]
    for split in ("train", "test"):
        for x, y in zip(a.maps[split], b.maps[split], strict=True):
            np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(a.label(split), b.label(split))


@pytest.mark.core
def test_codes_are_those_of_the_model(run, data):
    """All items, in order, whatever the batches; labels beside them."""
    codes, bundle = open_codes(run / "codes"), load_model(run / "model")
    assert codes.model == bundle.sha256 and codes.source == str(data)
    assert codes.levels == (((2, 2), (4, 8)), ((4, 4), (16,)))
    assert codes.grids == ((2, 2), (4, 4)) and codes.vocab == ((4, 8), (16,))
    variables = jax.tree.map(jnp.asarray, bundle.variables)
    for split in ("train", "test"):
        x = preprocess(open_source(str(data))(split))
        expected = jax.jit(lambda v, x: bundle.model.apply(v, x, method="tokenize"))(variables, x)
        for found, k in zip(codes.maps[split], expected, strict=True):
            assert found.dtype == np.int16
            np.testing.assert_array_equal(found, k)
        np.testing.assert_array_equal(codes.label(split), open_labels(str(data)).read(split))
    assert codes.classes == tuple(map(str, range(CLASSES)))


@pytest.mark.parametrize("form", ["npz", "records"])
@pytest.mark.parametrize(
    "changes", [{}, {"labels": {}, "classes": ()}], ids=["labelled", "unlabelled"]
)
def test_what_is_written_is_read(form, changes, tmp_path):
    codes = handmade(**changes)
    write_codes(tmp_path / "codes", codes, form)
    assert_equal(open_codes(tmp_path / "codes"), codes)
    other = handmade(data=DataOptions("other"))
    write_codes(tmp_path / "codes", other, form)  # replaces what is there
    assert open_codes(tmp_path / "codes").source == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]


def test_records_hold_the_same(run, tmp_path):
    tokenize.main(tokenize.Config(run, tmp_path / "records", format="records"))
    assert_equal(open_codes(tmp_path / "records"), open_codes(run / "codes"))
    assert not list((tmp_path / "records").glob("*.npz"))


def test_numbers_by_hand(capsys):
    """Items 0 and 1 are alike; of 4, 2 and 8 codes 2, 1 and 2 occur."""
    found = tokenize.summary(handmade(), "train")
    assert found["unique"] == 0.5 and tokenize.summary(handmade(), "test")["unique"] == 1
    assert found["items"] == 4 and found["codes"] == (4 + 3 + 8) / 4  # one of 16 is no code
    assert found["bits_uniform"] == (4 * 2 + 3 * 1 + 8 * 3) / 4
    np.testing.assert_allclose(found["used"], (2 / 4 + 1 / 2 + 2 / 8) / 3)
    tokenize.print_codes({"train": found}, "title")
    assert "50.00%" in capsys.readouterr().out


def test_the_table_is_of_both_splits(run, tmp_path, capsys):
    found = tokenize.main(tokenize.Config(run, tmp_path / "codes"))
    assert [found[split]["items"] for split in ("train", "test")] == [60, 20]
    assert found["train"]["bits_uniform"] == 4 * (2 + 3) + 16 * 4
    rows = {split: set() for split in found}
    codes = open_codes(tmp_path / "codes")
    for split, maps in codes.maps.items():
        rows[split] = {(a.tobytes(), b.tobytes()) for a, b in zip(*maps, strict=True)}
        assert found[split]["unique"] <= len(rows[split]) / len(maps[0])
    assert "no other item" in capsys.readouterr().out


def test_the_smallest_integers():
    assert smallest((512, 32768)) is np.int16 and smallest((2, 32769)) is np.int32


def flip(path, at=-30):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def change(key, value):
    def do(folder):
        document = json.loads((folder / "codes.json").read_text())
        (folder / "codes.json").write_text(json.dumps(document | {key: value}))

    return do


def link(path):
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def replace(folder, k):
    """The codes of the test split are a stranger's, and their SHA-256 fits."""
    path = folder / "test.npz"
    if k is None:
        path.write_bytes(b"PK but no zip")
    else:
        with np.load(path) as file:
            np.savez_compressed(path, **(dict(file) | {"level0": k}))
    files = json.loads((folder / "codes.json").read_text())["files"]
    change("files", files | {"test.npz": sha256(path)})(folder)


DAMAGE = {
    "a bit": (lambda f: flip(f / "test.npz"), "test.npz: expected SHA-256 .* found "),
    "a file": (lambda f: (f / "train.npz").unlink(), "train.npz: .* found no such file"),
    "all": (lambda f: (f / "codes.json").unlink(), "codes.json: expected codes, found"),
    "json": (lambda f: (f / "codes.json").write_text("{"), "codes.json: expected codes, found"),
    "format": (change("format", 2), "expected codes of format 1"),
    "form": (change("form", "zip"), "expected a description of codes, found: KeyError"),
    "labels": (change("classes", ["only"]), "expected labels from -1 to 0, found "),
    "levels": (change("levels", 3), "expected a description of codes, found: TypeError"),
    "counts": (change("counts", {"train": 1, "test": 1}), "expected integers|unpacks to"),
    "files": (change("files", {"../letter.txt": "0"}), "letter.txt: .* found no such file"),
    "a link": (lambda f: link(f / "train.npz"), "train.npz: .* found no such file"),
    "a link of json": (lambda f: link(f / "codes.json"), "codes.json: .* a symbolic link"),
    "a FIFO": (lambda f: fifo(f / "codes.json"), "codes.json: .* no plain file"),
    "floats": (lambda f: replace(f, np.zeros((2, 1, 1, 2))), "found: ValueError.*integers"),
    "codes": (lambda f: replace(f, np.full((2, 1, 1, 2), 4)), "found: ValueError.*K - 1"),
    "a bomb": (lambda f: replace(f, np.zeros(10**7, np.int8)), "unpacks to 1000.* bytes"),
    "no zip": (lambda f: replace(f, None), "found: "),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(name, tmp_path):
    do, message = DAMAGE[name]
    write_codes(tmp_path / "codes", handmade())
    do(tmp_path / "codes")
    with pytest.raises(DataError, match=message) as error:
        open_codes(tmp_path / "codes")
    assert "\n" not in str(error.value)


def test_damage_of_records_is_found(tmp_path):
    write_codes(tmp_path / "codes", handmade(), "records")
    flip(next((tmp_path / "codes/records").glob("train*")))
    with pytest.raises(DataError, match="array_record: expected SHA-256"):
        open_codes(tmp_path / "codes")


def test_codes_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_codes(tmp_path / "codes", handmade())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(code_files, "write_text", full)
    with pytest.raises(OSError):
        write_codes(tmp_path / "codes", handmade(data=DataOptions("other")))
    assert open_codes(tmp_path / "codes").source == "source"
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]


def test_other_files_are_not_replaced(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="expected a new folder or one of codes"):
        write_codes(tmp_path, handmade())
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(BundleError, match="expected the folder of a run"):
        tokenize.main(tokenize.Config(tmp_path))


def test_codes_are_made_once_for_each_model(data, tmp_path, capsys):
    run = write_run(tmp_path / "run", data)
    bundle, _ = open_run(run)
    first = codes_of_data.codes_of(run, bundle)
    time = (run / "codes/codes.json").stat().st_mtime_ns
    assert_equal(codes_of_data.codes_of(run, bundle), first)
    assert (run / "codes/codes.json").stat().st_mtime_ns == time
    write_codes(run / "codes", first._replace(model="other"))
    assert_equal(codes_of_data.codes_of(run, bundle), first)
    assert "is of another model and is made again" in capsys.readouterr().out
    assert math.prod(first.maps["test"][0].shape) == 20 * 4


def test_a_saved_model_keeps_the_codes_of_the_data_it_was_given(run, data, tmp_path, capsys):
    shutil.copytree(run / "model", own := tmp_path / "own")
    bundle, options = open_run(own)
    with pytest.raises(DataError, match="pass --data"):
        codes_of_data.codes_of(own, bundle)
    codes = codes_of_data.codes_of(own, bundle, data=str(data))
    assert options == {} and codes.source == str(data)
    assert_equal(codes_of_data.codes_of(own, bundle), codes)
    assert capsys.readouterr().out == ""
    link = tmp_path / "elsewhere"
    link.symlink_to(data)
    assert codes_of_data.codes_of(own, bundle, data=str(link)).source == str(link)
    assert "is of other data and is made again" in capsys.readouterr().out


def test_items_out_of_the_range_of_the_models_data_have_no_codes_and_are_counted(tmp_path, capsys):
    x = np.random.default_rng(0).uniform(-1, 1, (30, 5)).astype(np.float32)
    x[2], x[-1], x[-2] = 40, 50, np.nan
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "config.json").write_text(
        json.dumps({"data": str(tmp_path / "x.npy"), "crop": None})
    )
    model = vj.VQVAE(vj.MLP(3), vj.vq(8, 3), vj.MLP(5), domain=vj.values(-2, 2))
    vj.save_model(tmp_path / "model", model, model.init(jax.random.key(0), x[:1]))
    tokenize.main(tokenize.Config(tmp_path))
    said = capsys.readouterr().out
    assert "1 of 27 train items have no codes" in said and "2 of 3 test items have no codes" in said
    np.save(tmp_path / "x.npy", np.zeros((30, 5), np.uint8))
    with pytest.raises(ValueError, match="x is uint8, but this model takes floats from -2 to 2"):
        tokenize.main(tokenize.Config(tmp_path))
