"""Convolutions by matrix products: those of XLA, in every transformation, and only on CPU."""

import re
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax.sharding import NamedSharding, PartitionSpec

from vqvae_jax.models import convolution
from vqvae_jax.models.convolution import Conv, convolve

close = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)
# Sides of x, taps and channels: patches are made where they are not many more than the features.
SHAPES = {
    "pointwise": ((3, 2), (1, 1), 3, 5),
    "1-D patches": ((7,), (2,), 3, 5),
    "1-D products": ((6,), (2,), 8, 3),
    "2-D patches": ((4, 3), (2, 2), 3, 5),
    "2-D products": ((3, 5), (2, 2), 9, 2),
    "1 and 2 taps": ((3, 4), (1, 2), 3, 2),
    "3-D patches": ((2, 3, 4), (2, 2, 2), 3, 2),
    "3-D products": ((4, 2, 3), (2, 2, 2), 8, 1),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
few = pytest.mark.parametrize("name", ["pointwise", "2-D patches", "2-D products"])


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def options(rank, strides=1, padding="VALID"):
    """What `nn.Conv` passes."""
    order = (0, rank + 1, *range(1, rank + 1)), (rank + 1, rank, *range(rank))
    numbers = jax.lax.ConvDimensionNumbers(order[0], order[1], order[0])
    return {
        "window_strides": (strides,) * rank,
        "padding": padding,
        "dimension_numbers": numbers,
        "precision": "highest",
    }


def arrays(shape, batch=2):
    """x, w, and one more of each."""
    sides, taps, channels, features = shape
    sizes = 2 * [(batch, *sides, channels), (*taps, channels, features)]
    return [random(*size, seed=i) for i, size in enumerate(sizes)]


def by_loops(x, w, strides=1, padding="VALID"):
    """y and its pullback in float64, a tap after another."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    steps = (strides,) * (x.ndim - 2)
    pads = jax.lax.padtype_to_pads(x.shape[1:-1], w.shape[:-2], steps, padding)
    inside = (
        slice(None),
        *(slice(a, a + n) for (a, _), n in zip(pads, x.shape[1:-1], strict=True)),
    )
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    last = [n - k for n, k in zip(x.shape[1:-1], w.shape, strict=False)]
    windows = {
        t: (slice(None), *(slice(a, a + n + 1, strides) for a, n in zip(t, last, strict=True)))
        for t in np.ndindex(w.shape[:-2])
    }
    y = sum(x[at] @ w[t] for t, at in windows.items())

    def pullback(g):
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        for t, at in windows.items():
            dx[at] += g @ w[t].T
            dw[t] = np.tensordot(x[at], g, (range(g.ndim - 1),) * 2)
        return dx[inside], dw

    return y, pullback


def check_formula(shape, **settings):
    """Value and gradients are those in float64."""
    x, w, *_ = arrays(shape)
    y, pullback = by_loops(x, w, **settings)
    g = random(*y.shape, seed=5)

    @jit
    def ours(x, w, g):
        y, pullback = jax.vjp(partial(convolve, **options(x.ndim - 2, **settings)), x, w)
        return y, pullback(g)

    close(ours(x, w, g), (y, pullback(g)))


@shapes
def test_value_and_gradients_are_those_of_the_formula(shape):
    check_formula(shape)


@pytest.fixture
def all_large(monkeypatch):
    monkeypatch.setattr(convolution, "LARGE", 0)


@pytest.fixture
def in_loop():
    token = convolution.IN_LOOP.set(True)
    yield
    convolution.IN_LOOP.reset(token)


more_taps = pytest.mark.parametrize(
    ("shape", "strides", "padding"),
    [
        (((5, 4), (3, 3), 2, 3), 1, "SAME"),
        (((6, 5), (4, 4), 3, 2), 2, "SAME"),
        (((7, 5), (3, 2), 2, 3), 2, "VALID"),
        (((4, 3, 5), (3, 3, 3), 2, 1), 1, "SAME"),
        (((5, 4, 3), (2, 1, 3), 1, 2), 2, "VALID"),
    ],
    ids=str,
)


@more_taps
def test_value_and_gradients_of_large_pictures_are_those_of_the_formula(
    all_large, shape, strides, padding
):
    check_formula(shape, strides=strides, padding=padding)


@more_taps
def test_value_and_gradients_in_loops_are_those_of_the_formula(in_loop, shape, strides, padding):
    check_formula(shape, strides=strides, padding=padding)


def test_and_those_of_one_axis_and_of_large_pictures(in_loop, monkeypatch):
    check_formula(((9,), (4,), 2, 3), strides=2, padding="SAME")
    monkeypatch.setattr(convolution, "LARGE", 0)
    check_formula(((6, 5), (4, 4), 3, 2), strides=2, padding="SAME")


def check_transformations(shape):
    """Tangents, batches and second derivatives are those of XLA."""
    x, w, *tangents = map(jnp.asarray, arrays(shape))

    @partial(jit, static_argnums=0)
    def transformed(f):
        f = partial(f, **options(x.ndim - 2))
        slope = jax.grad(lambda *args: jnp.sum(jnp.sin(f(*args))), argnums=(0, 1))
        pairs = jnp.stack([x, x + 1]), jnp.stack([w, w - 1])
        return (
            jax.jvp(f, (x, w), tuple(tangents)),
            jax.jvp(slope, (x, w), tuple(tangents)),
            jax.vmap(slope)(*pairs),
            jax.vmap(f, (None, 0))(x, pairs[1]),
            jax.grad(lambda w: jnp.sum(f(x, w) ** 2))(w),
            jax.grad(lambda x: jnp.sum(f(x, w) ** 2))(x),
        )

    close(transformed(convolve), transformed(jax.lax.conv_general_dilated), rtol=1e-4, atol=1e-4)


@few
def test_tangents_batches_and_second_derivatives_are_those_of_xla(name):
    check_transformations(SHAPES[name])


LARGE = ((5, 4), (3, 3), 2, 3)


def test_so_are_those_of_large_pictures(all_large):
    check_transformations(LARGE)


def gradient(x, w):
    def loss(x, w):
        return jnp.sum(jnp.square(convolve(x, w, **options(x.ndim - 2))))

    return jax.grad(loss, argnums=(0, 1))(x, w)


def check_products(args, on_cpu):
    """The matrix products and convolutions of value and gradient, by platform."""
    x, w = args
    for platform, expected in (("cpu", on_cpu), ("cuda", (0, 3)), ("tpu", (0, 3))):
        traced = jax.jit(lambda x, w: gradient(x, w)).trace(x, w)  # anew
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found = [text.count(f"stablehlo.{op}") for op in ("dot_general", "convolution")]
        assert found == list(expected), platform


@few
def test_accelerators_convolve_and_cpu_multiplies_matrices(name):
    check_products(arrays(SHAPES[name])[:2], (3, 0))


def test_of_large_pictures_only_the_gradient_of_w_is_a_product(all_large):
    check_products(arrays(LARGE)[:2], (1, 2))
    check_products(arrays(((5,), (3,), 2, 3))[:2], (0, 3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_in_loops_all_are_products(in_loop, dtype):
    x, w, *_ = (jnp.asarray(a, dtype) for a in arrays(LARGE))
    check_products((x, w), (3, 0))


@pytest.mark.parametrize(
    ("taps", "settings", "dtype"),
    [
        (3, {}, "float32"),
        (2, {"padding": "SAME"}, "float32"),
        (2, {"window_strides": (2, 2)}, "float32"),
        (2, {"rhs_dilation": (1, 2)}, "float32"),
        (1, {"feature_group_count": 2}, "float32"),
        (2, {}, "bfloat16"),
    ],
    ids=["3 taps", "padded", "strided", "dilated", "groups", "bfloat16"],
)
def test_all_else_is_left_to_xla(taps, settings, dtype):
    inner = 4 // settings.get("feature_group_count", 1)
    x, w = jnp.ones((1, 4, 4, 4), dtype), jnp.ones((taps, taps, inner, 2), dtype)
    settings = options(2) | settings
    same = jax.make_jaxpr(partial(jax.lax.conv_general_dilated, **settings))(x, w)
    assert str(jax.make_jaxpr(partial(convolve, **settings))(x, w)) == str(same)


@pytest.mark.parametrize("shape", [SHAPES["2-D patches"], LARGE], ids=["2 taps", "3 taps"])
def test_any_batch_can_be_exported(all_large, shape):
    (batch,) = jax.export.symbolic_shape("b")
    (_, *rest), w = (a.shape for a in arrays(shape)[:2])
    x, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((batch, *rest), w))
    exported = jax.export.export(jax.jit(gradient), platforms=("cpu", "cuda", "tpu"))(x, w)
    for n in (1, 3):
        x, w, *_ = arrays(shape, batch=n)
        close(exported.call(x, w), jit(gradient)(x, w))


def check_sharded(shape):
    """A batch on eight devices: the same gradients, and only sums are sent."""
    x, w, *_ = arrays(shape, batch=8)
    rows = PartitionSpec("data")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {"in_specs": (rows, PartitionSpec()), "out_specs": (rows, PartitionSpec())}
    by_hand = jit(jax.shard_map(gradient, mesh=mesh, **specs))
    close(by_hand(x, w), jit(gradient)(x, w), rtol=1e-4)

    placed = jax.device_put(x, NamedSharding(mesh, rows))
    compiled = jit(gradient).lower(placed, w).compile()
    collectives = re.findall(r"(all-[a-z]+|collective-permute)(?:-start)?\(", compiled.as_text())
    assert set(collectives) == {"all-reduce"}
    close(compiled(placed, w), jit(gradient)(x, w), rtol=1e-4)


@few
def test_a_sharded_batch_stays_on_its_devices(name):
    check_sharded(SHAPES[name])


def test_a_sharded_batch_of_large_pictures_stays_on_its_devices(all_large):
    check_sharded(LARGE)


def test_a_layer_keeps_its_parameters():
    x = jnp.ones((1, 3, 3, 2))
    ours, plain = (
        conv(4, (2, 2), padding="VALID").init(jax.random.key(0), x) for conv in (Conv, nn.Conv)
    )
    chex.assert_trees_all_equal(ours, plain)
