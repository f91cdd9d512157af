"""Weights of vector-quantize-pytorch give its codes here; `golden/make_import.py` made them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

import vqvae_jax as vj
from vqvae_jax.saving import import_torch
from vqvae_jax.saving.weight_files import read_weights

GOLDEN = Path(__file__).parents[1] / "golden"
EMA = GOLDEN / "import_ema.safetensors"
PATH = {"PYTHONPATH": str(Path(vj.__file__).parents[1])}
CASES = {
    "ema": (),
    "learnable": ("--codebook", "learnable"),
    "cosine": ("--codebook", "cosine"),
    "residual": (),
    "residual_sizes": ("--codebook", "cosine"),
    "residual_shared": (),
    "simvq": (),
    "fsq": ("--levels", "8", "5", "4", "3"),
    "fsq_symmetric": ("--levels", "8", "2", "4", "3", "--symmetric"),
    "heads": (),
}


def imported(tmp_path, file, *options):
    import_torch.main([str(file), "-o", str(tmp_path), *options])
    return vj.load_model(tmp_path)


def described(tree):
    return {name: (a.shape, a.dtype) for name, a in flatten_dict(tree, sep="/").items()}


@pytest.mark.parametrize("name", CASES)
def test_codes_are_those_of_the_peer(name, tmp_path):
    model, variables, _ = imported(tmp_path, GOLDEN / f"import_{name}.safetensors", *CASES[name])
    with np.load(GOLDEN / "import.npz") as golden:
        z, indices = jnp.asarray(golden[f"{name}/z"]), golden[f"{name}/indices"]
    out = jax.jit(model.apply)(variables, z)
    np.testing.assert_array_equal(out.indices, indices)
    assert len(np.unique(indices)) > 4
    shapes = jax.eval_shape(model.init, jax.random.key(0), z)
    assert described(variables) == described(shapes)
    # It can go on learning.
    jax.eval_shape(
        lambda v: model.apply(v, z, train=True, mutable=[vj.quantizers.STATE]), variables
    )


def test_averages_and_options_are_kept(tmp_path):
    model, variables, _ = imported(tmp_path, EMA, "--decay=0.9", "--eps=1e-3", "--beta=2")
    assert model.quantizer == vj.ema_vq(16, 4, 0.9, eps=1e-3, beta=2.0)
    weights, state = load_file(EMA), variables[vj.quantizers.STATE]["state"]
    for ours, theirs in {
        "codebook": "embed",
        "counts": "cluster_size",
        "sums": "embed_avg",
    }.items():
        np.testing.assert_array_equal(state[ours], weights[f"_codebook.{theirs}"][0])


def test_npz_and_a_prefix_are_the_same_model(tmp_path):
    expected = imported(tmp_path / "a", EMA).sha256
    assert imported(tmp_path / "b", GOLDEN / "import_ema.npz").sha256 == expected
    weights = {f"vq.{name}": w for name, w in load_file(EMA).items()}
    save_file(weights | {"encoder.weight": np.ones(3)}, tmp_path / "whole")
    assert imported(tmp_path / "c", tmp_path / "whole", "--prefix", "vq.").sha256 == expected


def test_half_precision_becomes_single(tmp_path):
    weights = {name: np.asarray(w, np.float16) for name, w in load_file(EMA).items()}
    save_file(weights, tmp_path / "half")
    variables = imported(tmp_path, tmp_path / "half").variables
    assert {a.dtype for a in jax.tree.leaves(variables)} == {np.dtype("float32")}


def changed(**changes):
    """The weights of a VectorQuantize, some replaced, or left out if None."""
    weights = load_file(EMA)
    weights |= {f"_codebook.{name}": w for name, w in changes.items()}
    return {name: w for name, w in weights.items() if w is not None}


def layers(*numbers):
    return {f"layers.{i}.{name}": w for i in numbers for name, w in load_file(EMA).items()}


NAN, WAITING = np.full((1, 16, 4), np.nan, np.float32), np.array(False)
WRONG = {
    "not initialised": (changed(initted=WAITING), (), "waits for a first batch"),
    "missing": (changed(embed=None), (), "weight _codebook.embed is missing"),
    "affine": (
        changed(codebook_mean=NAN),
        (),
        "_codebook.codebook_mean is a weight of a part that",
    ),
    "projection": (changed() | {"project_in.weight": NAN}, (), "project_in.weight is a weight of"),
    "not finite": (changed(embed=NAN), (), "_codebook.embed is not finite"),
    "shapes": (
        changed(embed_avg=np.ones((1, 16, 3), np.float32)),
        (),
        "got (1, 16, 4), (1, 16, 3)",
    ),
    "another model": ({"weight": NAN}, (), "_codebook.cluster_size is missing, found ['weight']"),
    "empty": ({}, (), "an FSQ, which has none, needs --levels"),
    "prefix": (changed(), ("--prefix", "q."), "no weights that begin with 'q.'"),
    "fsq": (changed(), ("--levels", "8", "5"), "is a weight of a part that is not known here"),
    "levels": ({}, ("--levels", "0", "5"), "levels must be"),
    "decay": (changed(), ("--decay", "1.5"), "decay must be in [0, 1), got 1.5"),
    "gap": (layers(0, 2), (), "layers from 0 on without a gap, got [0, 2]"),
    "mlps": (layers(0) | {"mlps.0.weight": NAN}, (), "mlps.0.weight is of a ResidualVQ with parts"),
    "simvq": (
        {"frozen_codebook": np.ones((16, 4)), "code_transform.weight": np.ones((16, 4))},
        (),
        "got (16, 4) and (16, 4)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_are_not_understood(name, tmp_path, capsys, as_users):
    weights, options, message = WRONG[name]
    save_file(weights, tmp_path / "weights")
    assert message in refused(capsys, tmp_path / "weights", tmp_path / "out", *options)


def refused(capsys, file, out, *options):
    with pytest.raises(SystemExit) as stop:
        imported(out, file, *options)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and not out.exists()
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def header(**changes):
    """A safetensors file of one tensor whose header says something else."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    text = json.dumps({"a": entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


BROKEN = {
    "pickle.pt": (b"\x80\x02}q\x00.", "is a pickle, which can run code"),
    "zip.pt": (b"PK\x03\x04rest", "is a pickle, which can run code"),
    "empty.safetensors": (b"", "is no safetensors or .npz file"),
    "text.safetensors": (b"hello, world, hello", "is no safetensors or .npz file"),
    "truncated.safetensors": (EMA.read_bytes()[:-7], "is no safetensors or .npz file"),
    "offsets.safetensors": (header(data_offsets=[0, 99]), "is no safetensors or .npz file"),
    "dtype.safetensors": (header(dtype="F33"), "is no safetensors or .npz file"),
    "shape.safetensors": (header(shape=[3]), "is no safetensors or .npz file"),
    "negative.safetensors": (header(data_offsets=[-8, 0]), "is no safetensors or .npz file"),
    "list.safetensors": ((2).to_bytes(8, "little") + b"[]", "is no safetensors or .npz file"),
    "endless.safetensors": (
        header(shape=[0, 2**62, 2**62], data_offsets=[0, 0])[:-8],
        "is no safetensors or .npz file",
    ),
    "longer.safetensors": (EMA.read_bytes() + b"more", "is no safetensors or .npz file"),
    "deep.safetensors": (
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
        "is no safetensors or .npz file",
    ),
    "length.safetensors": (b"\xff" * 8 + b"{}", "is no safetensors or .npz file"),
    "truncated.npz": ((GOLDEN / "import_ema.npz").read_bytes()[:-30], "is no safetensors or .npz"),
    "empty.npz": (b"", "is no safetensors or .npz file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_cannot_be_read(name, tmp_path, capsys):
    data, message = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    error = refused(capsys, tmp_path / name, tmp_path / "out")
    assert message in error and name in error


def test_a_large_file_of_another_kind_is_refused_unread(tmp_path, capsys):
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 2**42)
    assert "is no safetensors" in refused(capsys, tmp_path / "large", tmp_path / "out")


def test_objects_in_an_npz_are_not_loaded(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", **{"_codebook.embed": np.array([{}], object)})
    assert "is no safetensors or .npz file" in refused(capsys, tmp_path / "a.npz", tmp_path / "o")


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert "No such file" in refused(capsys, tmp_path / "none.npz", tmp_path / "out")


@pytest.mark.parametrize("name", sorted(CASES))
def test_files_are_read_as_safetensors_reads_them(name):
    file = GOLDEN / f"import_{name}.safetensors"
    found, expected = read_weights(file), load_file(file)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)


def test_dtypes_of_files(tmp_path):
    arrays = {
        "bfloat16": np.arange(3).astype(jnp.bfloat16),
        "float8": np.arange(4).astype(jnp.float8_e4m3fn),
        "complex": np.array([1 + 2j], np.complex64),
        "float64": np.arange(6.0).reshape(2, 1, 3),
        "bool": np.array([True, False]),
        "int64": np.array(-5),
        "empty": np.zeros((0, 2), np.float32),
    }
    save_file(arrays, tmp_path / "a", metadata={"format": "pt"})
    found = read_weights(tmp_path / "a")
    assert described(found) == described(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


BLOCKED = """
import sys
for name in ("experiments", "tyro", "torch", "tensorflow_datasets", "PIL"):
    sys.modules[name] = None
from vqvae_jax.saving import import_torch
import_torch.main(sys.argv[1:])
"""


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_nothing_but_the_library_is_needed(suffix, tmp_path):
    line = [sys.executable, "-c", BLOCKED, str(GOLDEN / f"import_ema.{suffix}"), "-o", "out"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=os.environ | PATH)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("out: ema_vq(size=16") and done.stdout.count("\n") == 1
    assert isinstance(vj.load_model(tmp_path / "out").model, vj.Quantize)


@pytest.mark.parametrize("options", [(), ("--codebook", "ema", "--beta", "x"), ("--help",)])
def test_the_command_line(options, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        import_torch.main([*options, "-o", str(tmp_path / "out")])
    helped = "--help" in options
    assert stop.value.code == (0 if helped else 2)
    out, error = capsys.readouterr()
    assert ("default: 0.8" in out) == helped and ("error: " in error) != helped


def test_weights_from_python(tmp_path):
    options = import_torch.Options(codebook="cosine")
    imported, digest = import_torch.import_torch(
        GOLDEN / "import_cosine.safetensors", tmp_path, options
    )
    assert vj.load_model(tmp_path).sha256 == digest
    assert imported.quantizer == vj.load_model(tmp_path).model.quantizer
