"""A codebook sharded over a mesh axis is searched as the whole one is, index for index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from jax.sharding import PartitionSpec as P

from vqvae_jax import nearest


def over(shape):
    """`nearest` on a mesh of this shape: rows over "data", codes over "codebook"."""
    names = ("data", "codebook")
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh(shape, names, kinds, devices=jax.devices()[: np.prod(shape)])
    specs = {"in_specs": (P("data"), P("codebook")), "out_specs": P("data")}
    find = jax.shard_map(lambda z, e: nearest(z, e, axis_name="codebook"), mesh=mesh, **specs)
    return jax.jit(find)


def problem(kind, n=96, size=640, dim=6):
    """Rows and codes, of kinds for which one device alone can't tell."""
    rng = np.random.default_rng(0)
    z, e = rng.normal(size=(n, dim)), rng.normal(size=(size, dim))
    if kind == "offset":
        z, e = z + 1000, e + 1000
    if kind == "groups":  # each with a shard or more of codes, far apart
        z, e = z + 1e5 * (np.arange(n) % 3)[:, None], e + 1e5 * (np.arange(size) % 3)[:, None]
    if kind == "duplicates":  # of codes in other shards
        e = np.tile(e[: size // 4], (4, 1))
    if kind == "integers":  # many ties
        z, e = rng.integers(-2, 3, (n, dim)), rng.integers(-2, 3, (size, dim))
        e = np.concatenate([e[: size // 2], -e[: size // 2]])
    if kind == "bad":
        e[: size // 8], z[5] = np.nan, np.inf  # all codes of the first of eight shards
        e[size // 2] = 1e25
    return z.astype(np.float32), e.astype(np.float32)


KINDS = ["normal", "offset", "groups", "duplicates", "integers", "bad"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (4, 2)])
def test_shards_find_what_one_device_finds(kind, shape):
    z, e = problem(kind)
    np.testing.assert_array_equal(over(shape)(z, e), nearest(z, e))


@pytest.mark.parametrize("kind", ["normal", "offset", "duplicates"])
def test_shards_find_what_float64_finds(kind):
    z, e = problem(kind)
    apart = ~ref.near_tie(z, e) if kind != "duplicates" else slice(None)
    k = np.asarray(over((2, 4))(z, e))
    np.testing.assert_array_equal(k[apart], ref.nearest64(z, e)[apart])


def test_no_code_of_any_shard_is_finite():
    z, e = problem("normal")
    assert (np.asarray(over((2, 4))(z, np.full_like(e, np.nan))) == -1).all()


def test_a_million_codes_on_eight_devices():
    rng = np.random.default_rng(0)
    e = rng.normal(size=(2**20, 8)).astype(np.float32)
    at = rng.integers(2**20, size=64)
    z = e[at] + rng.normal(size=(64, 8)).astype(np.float32) * 1e-3
    np.testing.assert_array_equal(over((1, 8))(z, e), at)


def test_what_travels_between_devices_does_not_grow_with_the_codes():
    z = jax.ShapeDtypeStruct((96, 6), jnp.float32)
    texts = [
        over((1, 8)).lower(z, jax.ShapeDtypeStruct((size, 6), jnp.float32)).compile().as_text()
        for size in (640, 6400)
    ]
    moved = [sorted(collectives(text)) for text in texts]
    assert moved[0] == moved[1] and max(moved[0]) <= 8 * 96 * 6


def collectives(text):
    """The number of elements of each result of a collective."""
    for line in text.splitlines():
        head, found, _ = line.partition(" all-")
        if found and "=" in head:
            for shape in head.split("=", 1)[1].replace("(", " ").replace(")", " ").split():
                dims = shape.partition("[")[2].partition("]")[0]
                yield int(np.prod([int(d) for d in dims.split(",") if d]))
