"""A model as a folder: it comes back bit by bit, and is written whole or not at all."""

import json
import os

import flax.linen as nn
import numpy as np
import pytest
from bundles import DESCRIPTION, MODEL, arrays, leaves, saved, weights_of
from flax import nnx
from safetensors import safe_open

from vqvae_jax import MLP, VQVAE, BundleError, ema_vq, load_model, save_model, vq
from vqvae_jax.models import random_projection
from vqvae_jax.quantizers import STATE
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.saving.weights import DTYPES


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path)


def test_what_was_saved_comes_back_bit_by_bit(folder):
    bundle = load_model(folder)
    assert bundle.model == MODEL
    assert leaves(bundle.variables) == leaves(arrays())
    assert bundle.variables[STATE]["initialized"].shape == ()
    assert {p.name for p in folder.iterdir()} == {DESCRIPTION, weights_of(folder).name}


def test_the_digest_identifies_weights_and_description(tmp_path):
    def digest(model=MODEL, variables=None, name="m"):
        return save_model(tmp_path / name, model, arrays() if variables is None else variables)

    first = digest()
    assert digest(name="elsewhere") == first == load_model(tmp_path / "m").sha256
    other = VQVAE(MLP(3), ema_vq(4, 3, decay=0.9), MLP(2))
    digests = [first, digest(model=other)]
    for step in ({"step": np.int32(1)}, {"step": np.int32([0])}, {"step": np.uint32(0)}, {}):
        changed = arrays()
        del changed[STATE]["step"]
        digests.append(digest(variables=changed | {STATE: changed[STATE] | step}))
    assert len(set(digests)) == 6


def test_saving_again_replaces_the_model(folder):
    other = VQVAE(MLP(3), vq(4, 3), MLP(2))
    digest = save_model(folder, other, arrays(1))
    bundle = load_model(folder)
    assert (bundle.model, bundle.sha256) == (other, digest)
    assert leaves(bundle.variables) == leaves(arrays(1))
    assert len(list(folder.iterdir())) == 2  # the old weights are gone


def test_files_hold_plain_numbers_only(folder):
    """The weights are a safetensors file, which other programs read too."""
    with safe_open(weights_of(folder), "numpy") as file:
        kernel = file.get_tensor("params/encoder/Dense_0/kernel")
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    np.testing.assert_array_equal(kernel, arrays()["params"]["encoder"]["Dense_0"]["kernel"])
    assert len(dtypes) == len(leaves(arrays()))
    assert (dtypes["params/half"], dtypes["params/fp8"]) == ("BF16", "F8_E4M3")


def test_weights_that_are_laid_out_otherwise_are_the_same(folder):
    """Files that this library wrote by itself: another order, and spaces in the header."""
    entries, content = {}, b""
    for path, (dtype, shape, raw) in sorted(leaves(arrays()).items(), key=lambda leaf: leaf[1]):
        ends = len(content), len(content) + len(raw)
        code = {name: code for code, name in DTYPES.items()}[dtype]
        entries[path[1:]] = {"dtype": code, "shape": shape, "data_offsets": ends}
        content += raw
    text = json.dumps(entries).encode()
    old = len(text).to_bytes(8, "little") + text + content
    assert weights_of(folder).read_bytes() != old
    weights_of(folder).write_bytes(old)
    assert leaves(load_model(folder).variables) == leaves(arrays())


@pytest.mark.parametrize("crash", [1, 2])
def test_a_crash_while_saving_leaves_the_old_model(folder, monkeypatch, crash):
    real, calls = os.replace, []

    def replace(*args):
        calls.append(args)
        if len(calls) == crash:
            raise OSError("power cut")
        real(*args)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="power cut"):
        save_model(folder, MODEL, arrays(1))
    monkeypatch.undo()
    assert leaves(load_model(folder).variables) == leaves(arrays())
    save_model(folder, MODEL, arrays(1))
    assert leaves(load_model(folder).variables) == leaves(arrays(1))
    assert len(list(folder.iterdir())) == 2  # nothing is left of the crash


class Mine(nn.Module):
    width: int = 3


def test_a_users_own_module_is_known_by_the_name_they_give(tmp_path):
    model = VQVAE(Mine(5), vq(4, 5), Mine(2))
    save_model(tmp_path, model, {}, names={"Mine": Mine})
    assert load_model(tmp_path, names={"Mine": Mine}).model == model
    with pytest.raises(BundleError, match="'Mine' is no public name"):
        load_model(tmp_path)


def test_a_model_that_json_cannot_describe_writes_nothing(tmp_path, folder):
    model = VQVAE(MLP(3), vq(4, 3, estimator=lambda z, z_q: z_q), MLP(2))
    with pytest.raises(ValueError, match="give it in names="):
        save_model(tmp_path / "new", model, arrays())
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="give it in names="):
        save_model(folder, model, arrays(1))
    assert leaves(load_model(folder).variables) == leaves(arrays())


def test_a_run_is_loaded_by_its_folder(tmp_path):
    run = tmp_path / "runs" / "fashion"
    digest = save_model(run / "model", MODEL, arrays())
    bundle = load_model(run)
    assert (bundle.model, bundle.sha256) == (MODEL, digest)
    model, variables, sha256 = bundle
    assert (model, sha256) == (bundle.model, bundle.sha256) and variables is bundle.variables
    save_model(run, MODEL, arrays(1))  # a model in the folder itself comes first
    assert leaves(load_model(run).variables) == leaves(arrays(1))
    with pytest.raises(BundleError, match=r"no model in .*runs: model.json is missing"):
        load_model(tmp_path / "runs")
    for path in (run / DESCRIPTION, run / DESCRIPTION / "x", tmp_path / "a\0b"):
        with pytest.raises(BundleError):
            load_model(path)


@pytest.mark.parametrize("model", [vq(8, 4), random_projection(8, 4, 2)], ids=["vq", "tokenizer"])
def test_quantizers_and_tokenizers_are_kept_too(tmp_path, model):
    save_model(tmp_path, model, arrays())
    assert load_model(tmp_path).model == model


def test_what_is_no_model_or_no_variables_is_refused_in_words(tmp_path):
    for model in (underused(), len, {"call": "vq"}, None, VQVAE):
        with pytest.raises(TypeError, match=r"model must be a Flax .* or a Quantizer"):
            save_model(tmp_path / "new", model, arrays())
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match=r"got State; of a Flax NNX state, nnx.to_pure_dict"):
        save_model(tmp_path / "new", MODEL, state)
    for wrong in ({"a/b": np.ones(2)}, {"": np.ones(2)}, {0: np.ones(2)}, {"a\n": np.ones(2)}):
        with pytest.raises(TypeError, match="names of variables must be printable"):
            save_model(tmp_path / "new", MODEL, {"params": wrong})
    for array in (np.array([{}], object), np.array(["x"]), np.zeros(2, ">f4"), np.longdouble(1)):
        with pytest.raises(ValueError, match=r"dtypes of variables must be .* got params/w"):
            save_model(tmp_path / "new", MODEL, {"params": {"w": array}})
    assert not (tmp_path / "new").exists()
    save_model(tmp_path / "new", MODEL, {"params": nnx.to_pure_dict(state)})
    assert set(load_model(tmp_path / "new").variables["params"]) == {"kernel", "bias"}


def test_a_link_in_the_folder_is_never_written_through(folder, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (f".{DESCRIPTION}.partial", f".{weights_of(folder).name}.partial"):
        (folder / name).symlink_to(victim)
    save_model(folder, MODEL, arrays())
    assert victim.read_text() == "precious" and load_model(folder).model == MODEL
