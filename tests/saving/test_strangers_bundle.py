"""A stranger's folder: it runs nothing, costs little, and is a model or one clear error."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from bundles import DESCRIPTION, MODEL, arrays, edit, leaves, saved, weights_of, whole_or_refused

from vqvae_jax import (
    BundleError,
    Quantize,
    from_json,
    load_model,
    residual,
    save_model,
    to_json,
    vq,
)
from vqvae_jax.quantizers.codebooks import underused


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path)


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
    before, start = sorted(folder.parent.rglob("*")), time.process_time()
    with pytest.raises(BundleError, match=message) as raised:
        load_model(folder)
    assert time.process_time() - start < 2
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


def test_most_calls_that_a_description_may_hold_are_read_in_time(as_users, tmp_path):
    q = Quantize(residual(*[vq(8, 4, reset=underused())] * 1300))
    save_model(tmp_path, q, {})
    seconds, _, error = read_apart(tmp_path)
    assert seconds < 2 and not error
    with pytest.raises(ValueError, match="4201 calls, more than 4096"):
        to_json(residual(*[vq(8, 4, reset=underused())] * 1400))


def test_large_descriptions_are_refused_in_time_and_memory(folder):
    path = folder / DESCRIPTION
    texts = {"lists": "[[]," * (2**22 - 9), "numbers": "[" + "1," * (2**23 - 9) + "1]"}
    texts["objects"] = '{"model": [' + "{}," * 2**22 + "1]}"
    for name, text in texts.items():
        path.write_text(text)
        seconds, megabytes, error = read_apart(folder)
        assert error and seconds < 2 and megabytes < 700, (name, seconds, megabytes, error)


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
        whole_or_refused(folder, whole)
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
