"""A folder that was damaged: one clear error that names the file, at once."""

import json
import os
import time

import numpy as np
import pytest
from bundles import DESCRIPTION, MODEL, arrays, edit, leaves, saved, weights_of, whole_or_refused

from vqvae_jax import BundleError, load_model


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path)


def test_every_flipped_bit_is_noticed_or_means_nothing(folder):
    """Bits that mean nothing: none of the weights, and spaces of the description."""
    rng, harmless, whole = np.random.default_rng(0), 0, leaves(arrays())
    for path in (folder / DESCRIPTION, weights_of(folder)):
        original = path.read_bytes()
        for bit in rng.choice(8 * len(original), 100, replace=False):
            damaged = bytearray(original)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            if whole_or_refused(folder, whole):
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


def test_a_dtype_that_is_unknown_here_is_refused(folder):
    path = weights_of(folder)
    path.write_bytes(path.read_bytes().replace(b"F8_E4M3", b"F8_E8M0"))
    with pytest.raises(BundleError, match=r"is damaged: array 'params/fp8' has dtype F8_E8M0"):
        load_model(folder)


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
