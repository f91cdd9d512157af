"""A model as a folder: it comes back bit by bit, or not at all with one clear error."""

import hashlib
import json
import os
import pickle
import zipfile

import flax.linen as nn
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from vqvae_jax import MLP, STATE, VQVAE, BundleError, ema_vq, load_model, save_model, vq

MODEL = VQVAE(MLP(3), ema_vq(4, 3), MLP(2))
DESCRIPTION = "model.json"


def arrays(seed=0):
    """Arrays of every kind that a model has; saving looks at no shape."""
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "encoder": {"Dense_0": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}},
            "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
            "fp8": rng.normal(size=(2, 3)).astype(ml_dtypes.float8_e4m3fn),
        },
        STATE: {
            "initialized": np.array(True),
            "step": np.int32(seed),
            "nothing": np.zeros((0, 3), np.float32),
            "columns": np.asfortranarray(rng.normal(size=(3, 2))),
            "special": np.array([np.nan, np.inf, -0.0], np.float32),
        },
    }


def leaves(tree, path=""):
    """{path: (dtype, shape, bytes)}: equal only if the trees are, bit by bit."""
    if isinstance(tree, dict):
        return {p: v for name in tree for p, v in leaves(tree[name], f"{path}/{name}").items()}
    array = np.asarray(tree, order="C")
    return {path: (str(array.dtype), array.shape, array.tobytes())}


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model", MODEL, arrays())
    return tmp_path / "model"


def weights_of(folder):
    (path,) = folder.glob("weights-*.npz")
    return path


def edit(folder, **fields):
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


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


def test_every_flipped_bit_is_noticed_or_means_nothing(folder):
    """Bits that mean nothing: timestamps of the zip, padding of its headers."""
    rng, harmless, whole = np.random.default_rng(0), 0, leaves(arrays())
    for path in (folder / DESCRIPTION, weights_of(folder)):
        original = path.read_bytes()
        for bit in rng.choice(8 * len(original), 100, replace=False):
            damaged = bytearray(original)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                bundle = load_model(folder)
            except BundleError as error:
                assert "\n" not in str(error) and str(folder) in str(error)
            else:
                assert (bundle.model, leaves(bundle.variables)) == (MODEL, whole)
                harmless += 1
        path.write_bytes(original)
    assert harmless < 100  # most bits do mean something
    load_model(folder)


@pytest.mark.parametrize("name", ["description", "weights"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 1.0])
def test_truncated_and_missing_files_are_named(folder, name, part):
    path = folder / DESCRIPTION if name == "description" else weights_of(folder)
    content = path.read_bytes()
    path.write_bytes(content[: min(int(part * len(content)), len(content) - 1)])
    with pytest.raises(BundleError, match=path.name):
        load_model(folder)
    path.unlink()
    with pytest.raises(BundleError, match=path.name):
        load_model(folder)
    with pytest.raises(BundleError, match=r"no model in .*missing"):
        load_model(folder / "nowhere")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"format": 2}, "has format 2, this version reads 1"),
        ({"format": None}, "format is missing or not a int"),
        ({"sha256": "0" * 64}, "SHA-256 0000"),
        ({"dtypes": {}}, "SHA-256"),
        ({"model": {}}, "SHA-256"),
        ({"weights": "../secret.npz"}, "outside its folder"),
        ({"weights": ".."}, "can't be read"),
        ({"weights": "gone.npz"}, "gone.npz can't be read"),
        ({"dtypes": {"params/half": "no dtype"}}, "can't be read"),
        ({"dtypes": {"params/half": "object"}}, "can't be read"),
    ],
)
def test_a_description_that_was_edited_is_refused(folder, fields, message):
    np.savez(folder.parent / "secret.npz", x=np.zeros(3))
    edit(folder, **fields)
    with pytest.raises(BundleError, match=message):
        load_model(folder)


@pytest.mark.parametrize("text", [b"[]", b"null", b'"model"', b"{}", b"\xff"])
def test_a_description_of_another_kind_is_refused(folder, text):
    (folder / DESCRIPTION).write_bytes(text)
    with pytest.raises(BundleError, match="is damaged"):
        load_model(folder)


def test_files_hold_plain_numbers_only(folder):
    """bfloat16 lies there as uint16, and its name in the JSON: NumPy alone can read it."""
    with np.load(weights_of(folder), allow_pickle=False) as file:
        assert file["params/half"].dtype == np.uint16
        assert file["params/fp8"].dtype == np.uint8


def test_names_that_are_not_public_are_not_called(folder):
    """With a digest that fits, so that the description itself is looked at."""
    model = {"call": "os.system", "kwargs": {"command": "true"}}
    digest = hashlib.sha256(json.dumps(model, sort_keys=True).encode())
    for path, (dtype, shape, raw) in sorted(leaves(arrays()).items()):
        digest.update(f"{path[1:]} {dtype} {shape}".encode() + raw)
    edit(folder, model=model, sha256=digest.hexdigest())
    with pytest.raises(BundleError, match=r"'os.system' is no public name"):
        load_model(folder)


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("kind", ["object array", "pickle in the zip", "pickle for a zip"])
def test_pickles_are_refused_and_never_run(folder, kind):
    canary, path = folder.parent / "canary", weights_of(folder)
    with np.load(path) as file:
        content = dict(file)
    if kind == "object array":
        content["params/half"] = np.array([Payload(canary)], dtype=object)
        np.savez(path, allow_pickle=True, **content)
    elif kind == "pickle in the zip":
        with zipfile.ZipFile(path, "w") as file:
            for name in content:
                file.writestr(f"{name}.npy", pickle.dumps(Payload(canary)))
    else:
        path.write_bytes(pickle.dumps(Payload(canary)))
    with pytest.raises(BundleError, match=path.name):
        load_model(folder)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists()  # so the payload would have shown


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
