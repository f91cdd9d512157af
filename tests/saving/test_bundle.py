"""A model as a folder: it comes back bit by bit, or not at all with one clear error."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time

import flax.linen as nn
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open

from vqvae_jax import (
    MLP,
    VQVAE,
    BundleError,
    Quantize,
    ema_vq,
    from_json,
    load_model,
    residual,
    save_model,
    to_json,
    vq,
)
from vqvae_jax.models import random_projection
from vqvae_jax.quantizers import STATE
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.saving.weights import DTYPES

MODEL = VQVAE(MLP(3), ema_vq(4, 3), MLP(2))
DESCRIPTION = "model.json"


def arrays(seed=0):
    """Arrays of every kind that a model has; saving looks at no shape."""
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "encoder": {"Dense_0": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}},
            "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
            "complex": np.array([1 + 2j], np.complex64),
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
    (path,) = folder.glob("weights-*.safetensors")
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
    """Bits that mean nothing: none of the weights, and spaces of the description."""
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
                assert path.name == DESCRIPTION
                harmless += 1
        path.write_bytes(original)
    assert harmless < 50  # most bits do mean something
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
        ({"format": 1}, "has format 1, this version reads 2"),
        ({"format": None}, "format is missing or not a int"),
        ({"sha256": "0" * 64}, "weights-0000.* can't be read: No such file"),
        ({"sha256": "../" * 21 + "a"}, "is no SHA-256"),
        ({"sha256": "A" * 64}, "is no SHA-256"),
        ({"model": {}}, "SHA-256"),
        ({"arrays": {}}, "not the arrays that model.json names"),
        *(
            ({"arrays": {"params/half": spec}}, "array 'params/half' is ")
            for spec in (
                ["object", [5]],
                ["O", [5]],
                ["no dtype", [5]],
                ["U5", [5]],
                ["longdouble", [5]],
                [["float32"], [5]],
                ["float32", [-1]],
                ["float32", [2.0]],
                ["float32", [True]],
                ["float32", [10**30]],
                ["float32", ["5"]],
                ["float32", 5],
                ["float32", [1] * 33],
                ["float32", [5], 1],
                "float32",
                5,
                None,
                {"dtype": "float32", "shape": [5]},
            )
        ),
        *(
            ({"arrays": {name: ["float32", [5]]}}, "array '.* is ")
            for name in ("", "/", "a//b", "/a", "a/", "a\n", "a/\x00", "\ud800", "a" * 2000)
        ),
        ({"arrays": {f"a{i}": ["float32", [0]] for i in range(70_000)}}, "70000 arrays"),
    ],
)
def test_a_description_that_was_edited_is_refused(folder, fields, message):
    edit(folder, **fields)
    with pytest.raises(BundleError, match=message) as raised:
        load_model(folder)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


@pytest.mark.parametrize("text", [b"[]", b"null", b'"model"', b"{}", b"\xff"])
def test_a_description_of_another_kind_is_refused(folder, text):
    (folder / DESCRIPTION).write_bytes(text)
    with pytest.raises(BundleError, match="is damaged"):
        load_model(folder)


def test_files_hold_plain_numbers_only(folder):
    """The weights are a safetensors file, which other programs read too."""
    with safe_open(weights_of(folder), "numpy") as file:
        kernel = file.get_tensor("params/encoder/Dense_0/kernel")
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    np.testing.assert_array_equal(kernel, arrays()["params"]["encoder"]["Dense_0"]["kernel"])
    assert len(dtypes) == len(leaves(arrays()))
    assert (dtypes["params/half"], dtypes["params/fp8"]) == ("BF16", "F8_E4M3")


def test_weights_that_are_laid_out_otherwise_are_the_same(folder):
    """As this library wrote them itself: another order, and spaces in the header."""
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


def test_a_dtype_that_is_unknown_here_is_refused(folder):
    path = weights_of(folder)
    path.write_bytes(path.read_bytes().replace(b"F8_E4M3", b"F8_E8M0"))
    with pytest.raises(BundleError, match=r"is damaged: array 'params/fp8' has dtype F8_E8M0"):
        load_model(folder)


def forge(folder, model, variables=None):
    """A folder of a stranger: any description at all, and a digest that fits."""
    digest = hashlib.sha256(json.dumps(model, sort_keys=True).encode())
    for path, (dtype, shape, raw) in sorted(leaves(arrays()).items()):
        digest.update(f"{path[1:]} {dtype} {shape}".encode() + raw)
    weights_of(folder).rename(folder / f"weights-{digest.hexdigest()[:16]}.safetensors")
    edit(folder, model=model, sha256=digest.hexdigest())


def call(name, /, **kwargs):
    return {"call": name, "kwargs": kwargs}


CODES = call("vq", size=8, dim=4)
LAYER = call("Quantize", quantizer=CODES)


def test_a_forged_folder_is_read_if_it_is_a_model(folder):
    """So what the next tests refuse is refused for what it describes."""
    forge(folder, LAYER)
    assert load_model(folder).model == Quantize(vq(8, 4))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (call("os.system", command="true"), "'os.system' is no public name"),
        (call("save_model", folder="{canary}", model=LAYER, variables=[]), "is no public name"),
        (call("load_model", folder="{canary}"), "'load_model' is no public name"),
        (call("Quantize", quantizer=call("save_model", folder="{canary}")), "is no public name"),
        (call("Quantize", quantizer=CODES, name="x"), "Quantize has no parameters .'name'"),
        (call("Quantize", quantizer=CODES, parent=LAYER), "Quantize has no parameters .'parent'"),
        (call("straight_through", z_e=1, z_q=2), "is neither a factory .* nor a module"),
        (call("Quantizer", init=1, apply=1, decode=1, dim=1, vocab=[1]), "is no public name"),
        (call("repeat", q=CODES, n=10**9), "at most 65536 streams of codes, got 1000000000"),
        (call("heads", q=CODES, n=10**12), "at most 65536 streams of codes"),
        (call("shared", q=CODES, n=10**400), "at most 65536 streams of codes"),
        (call("repeat", q=call("repeat", q=CODES, n=60_000), n=2), "at most 65536 streams"),
        (call("fsq", levels=[2] * 10**6), "1000000 levels do not fit"),
        (call("lfq", bits=10**9), "bits must be at most 30"),
        (call("bsq", bits=10**400), "bsq can't be called as described"),
        (call("random_projection", size=2, dim=2, code_dim=2, heads=10**9), "65536 streams"),
        (call("from_optax"), "from_optax can't be called"),
        ({"call": "from_optax", "args": ["power_iteration", [[1.0]], 10**9], "kwargs": {}},
         "schedule or optimizer of optax, got 'power_iteration'"),
        (call("kmeans"), "expected a model, found kmeans"),
        ({"name": "straight_through"}, "expected a model, found <function straight_through"),
        ({"name": "VQVAE"}, "expected a model, found <class"),
        ({"a": {"a": "x" * 10**6}}, "expected a description with the keys call and kwargs"),
        (call("x" * 10**6), "is no public name"),
        (call("grouped", **{"x" * 10**6: 1}), "grouped can't be called"),
        ({"call": "grouped", "args": [call("kmeans")] * 5000, "kwargs": {}}, "5001 calls"),
    ],
)  # fmt: skip
def test_a_strangers_description_runs_nothing_and_costs_nothing(as_users, folder, model, message):
    canary = folder.parent / "canary"
    forge(folder, json.loads(json.dumps(model).replace("{canary}", str(canary))))
    before, start = sorted(folder.parent.rglob("*")), time.perf_counter()
    with pytest.raises(BundleError, match=message) as raised:
        load_model(folder)
    assert time.perf_counter() - start < 2
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("depth", [150, 400, 5000])
def test_a_description_deeper_than_any_model_is_refused(folder, depth):
    model = CODES
    for _ in range(depth):
        model = {"call": "frozen", "kwargs": {"q": model}}
    path = folder / DESCRIPTION
    text = '{"call": "frozen", "kwargs": {"q": ' * depth + json.dumps(CODES) + "}}" * depth
    document = json.loads(path.read_text()) | {"model": "here"}
    path.write_text(json.dumps(document).replace('"here"', text))
    with pytest.raises(BundleError, match=r"deep|recursion|SHA-256"):
        load_model(folder)


def test_most_calls_that_a_description_may_hold_are_read_in_time(as_users, tmp_path):
    q = Quantize(residual(*[vq(8, 4, reset=underused())] * 1300))
    save_model(tmp_path, q, {})
    seconds, _, error = read_apart(tmp_path)
    assert seconds < 2 and not error
    with pytest.raises(ValueError, match="4201 calls, more than 4096"):
        to_json(residual(*[vq(8, 4, reset=underused())] * 1400))


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("kind", ["object array", "zip", "pickle"])
def test_pickles_are_refused_and_never_run(folder, kind):
    canary, path = folder.parent / "canary", weights_of(folder)
    payload = np.array([Payload(canary)], dtype=object)
    with path.open("wb") as file:
        if kind == "object array":
            np.save(file, payload, allow_pickle=True)
        elif kind == "zip":
            np.savez(file, **{"params/half": payload})
        else:
            pickle.dump(Payload(canary), file)
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


def link(path):
    """The very content, but elsewhere."""
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def hold(path, make):
    path.unlink()
    make(path)


PLACES = {
    "a link out of the folder": (link, "it is a symbolic link"),
    "a link to itself": (lambda p: hold(p, lambda p: p.symlink_to(p)), "it is a symbolic link"),
    "a link to nothing": (lambda p: hold(p, lambda p: p.symlink_to("no")), "a symbolic link"),
    "a link to a device": (lambda p: hold(p, lambda p: p.symlink_to("/dev/zero")), "symbolic link"),
    "a FIFO": (lambda p: hold(p, os.mkfifo), "it is no plain file"),
    "a folder": (lambda p: hold(p, os.mkdir), "it is no plain file"),
    "a terabyte of nothing": (lambda p: os.truncate(p, 2**40), "too large: 1099511627776 bytes"),
    "one byte more": (lambda p: os.truncate(p, p.stat().st_size + 1), "is damaged"),
    "one byte less": (lambda p: os.truncate(p, p.stat().st_size - 1), "is damaged"),
    "an empty file": (lambda p: os.truncate(p, 0), "is damaged"),
}


@pytest.mark.parametrize("name", ["description", "weights"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_plain_file_is_refused_at_once(folder, name, place):
    path = folder / DESCRIPTION if name == "description" else weights_of(folder)
    damage, message = PLACES[place]
    damage(path)
    start = time.perf_counter()
    with pytest.raises(BundleError, match=f"{path.name}.*{message}"):
        load_model(folder)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("shape", [(2**40,), (2**47, 2**47, 2**47), (0, 2**47, 2**47, 2**47)])
def test_arrays_larger_than_their_file_are_never_allocated(folder, shape):
    document = json.loads((folder / DESCRIPTION).read_text())
    edit(folder, arrays=document["arrays"] | {"params/half": ["bfloat16", shape]})
    with pytest.raises(BundleError, match=r"is damaged: not the arrays that model.json names"):
        load_model(folder)


def test_weights_above_the_limit_are_read_on_demand_only(folder):
    size = weights_of(folder).stat().st_size
    with pytest.raises(BundleError, match=f"too large: {size} bytes, limit={size - 1}"):
        load_model(folder, limit=size - 1)
    assert load_model(folder, limit=size).model == MODEL


def read_apart(folder):
    """(seconds of CPU, megabytes, error) of `load_model` in a process of its own: as for users."""
    code = """if True:
        import resource, sys, time
        from vqvae_jax import BundleError, load_model
        before, start, error = resource.getrusage(0).ru_maxrss, time.process_time(), ""
        try:
            load_model(sys.argv[1])
        except BundleError as raised:
            error = raised
        grown = resource.getrusage(0).ru_maxrss - before
        print(time.process_time() - start, grown / 1024, error, sep="|")
    """
    run = [sys.executable, "-c", code, str(folder)]
    out = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True).stdout
    seconds, megabytes, error = out.split("|", maxsplit=2)
    return float(seconds), float(megabytes), error.strip()


def test_large_descriptions_are_refused_in_time_and_memory(folder):
    path = folder / DESCRIPTION
    texts = {"lists": "[[]," * (2**22 - 9), "numbers": "[" + "1," * (2**23 - 9) + "1]"}
    texts["objects"] = '{"model": [' + "{}," * 2**22 + "1]}"
    for name, text in texts.items():
        path.write_text(text)
        seconds, megabytes, error = read_apart(folder)
        assert error and seconds < 2 and megabytes < 700, (name, seconds, megabytes, error)


SWAPS = [None, True, -1, 0, 1e308, 2**63, 10**40, "", "vq", "../x", [], {}, [[1]], {"name": "unit"}]


def swapped(rng, value):
    """Plain JSON with one of its values, or keys, replaced by another."""
    if not isinstance(value, list | dict) or not value or rng.random() < 0.2:
        return SWAPS[rng.integers(len(SWAPS))]
    if isinstance(value, list):
        i = rng.integers(len(value))
        return [swapped(rng, v) if j == i else v for j, v in enumerate(value)]
    key = list(value)[rng.integers(len(value))]
    if rng.random() < 0.2:
        return {("call" if k == key else k): v for k, v in value.items()}
    return value | {key: swapped(rng, value[key])}


def test_mutants_of_a_folder_are_errors_or_the_same_model(folder):
    """Bytes and values of both files; half of the descriptions get a digest that fits."""
    save_model(folder, MODEL, {"params": {"w": np.arange(4.0)}})
    rng, whole = np.random.default_rng(0), leaves({"params": {"w": np.arange(4.0)}})
    originals = {p: p.read_bytes() for p in folder.iterdir()}
    for trial in range(2000):
        path = sorted(originals)[trial % 2]
        content = bytearray(originals[path])
        for at in rng.integers(len(content), size=rng.integers(1, 4)):
            content[at] = rng.integers(256)
        if trial % 3 == 0 and path.name == DESCRIPTION:
            content = json.dumps(swapped(rng, json.loads(originals[path]))).encode()
        elif trial % 3 == 1:
            content = content[: rng.integers(len(content))]
        path.write_bytes(content)
        try:
            bundle = load_model(folder)
        except BundleError as error:
            assert "\n" not in str(error) and str(folder) in str(error)
        else:
            assert (bundle.model, leaves(bundle.variables)) == (MODEL, whole)
        path.write_bytes(originals[path])
    assert {p: p.read_bytes() for p in folder.iterdir()} == originals


def test_mutants_of_a_description_are_errors_or_a_description(tmp_path, as_users):
    """Without a digest to stop them: what `from_json` does with any values at all."""
    original, built = json.loads(to_json(MODEL)), 0
    for seed in range(2000):
        text = json.dumps(swapped(np.random.default_rng(seed), original))
        try:
            made = from_json(text)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            built += 1
            repr(made)
    assert 0 < built < 1500


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
