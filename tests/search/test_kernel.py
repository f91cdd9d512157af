"""The kernel of the search: the triple of float64, and it lowers for GPU and TPU without either."""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh
from jax.sharding import PartitionSpec as P

import vqvae_jax as vj
from vqvae_commands.run import exported_files
from vqvae_jax import nearest
from vqvae_jax.saving.bundle import Bundle
from vqvae_jax.search import exact as search
from vqvae_jax.search import kernel, scans
from vqvae_jax.search.scores import Nearest, merge, product

KERNELS = {
    "gpu": jax.jit(functools.partial(kernel.search, interpret=True)),  # the default of platforms
    "tpu": jax.jit(functools.partial(kernel.on_tpu, interpret=True)),
}
both = pytest.mark.parametrize("find", KERNELS.values(), ids=KERNELS.keys())


def problem(n, size, dim, seed=0, integers=False):
    """Rows, codes, half and slack; float32 is exact for small integers."""
    rng = np.random.default_rng(seed)
    draw = functools.partial(rng.integers, -2, 3) if integers else rng.standard_normal
    z, e = (draw(size=shape).astype(np.float32) for shape in ((n, dim), (size, dim)))
    half = 0.5 * np.sum(np.square(e, dtype=np.float64), axis=-1)
    return z, e, half.astype(np.float32), np.full(n, 0.25 if integers else 1e-4, np.float32)


def scores64(z, e, half):
    z, e = z.astype(np.float64), e.astype(np.float64)
    return half.astype(np.float64) - z @ e.T


def triple(scores, slack):
    """The definition, in NumPy."""
    best, close = scores.min(axis=-1), scores <= scores.min(axis=-1)[:, None] + slack[:, None]
    return best, scores.argmin(axis=-1), (close.sum(axis=-1) == 1) & np.isfinite(best)


def plain(z, e, half, slack):
    """The triple without a kernel."""
    scores = half[:, None] - product(e, z)
    return Nearest(*(x[0] for x in kernel.lowest(scores, 0, slack[None])))


def check(find, z, e, half, slack):
    """Exactly the triple of float64, but for what rounding decides."""
    found, scores = find(z, e, half, slack), scores64(z, e, half)
    best, k, _ = triple(scores, slack)
    rounding = 1e-5 * (1 + np.abs(scores).max(axis=-1, where=np.isfinite(scores), initial=0))
    np.testing.assert_array_less(np.abs(found.best - best), rounding)
    sure = np.asarray(found.sure)
    np.testing.assert_array_equal(np.asarray(found.k)[sure], k[sure])
    _, _, narrow = triple(scores, np.maximum(slack - rounding, 0))
    _, _, wide = triple(scores, slack + rounding)
    assert (sure <= narrow).all() and (wide <= sure).all()
    assert found.best.dtype == jnp.float32 and found.k.dtype == jnp.int32


@both
@pytest.mark.parametrize(
    ("n", "size", "dim"),
    [
        (1, 1, 1),
        (5, 1, 3),
        (70, 300, 64),
        (300, 129, 65),
        (64, 128, 1),
        (3, 1000, 3),
        (20, 30, 300),
    ],
)
def test_the_triple_is_that_of_float64(find, n, size, dim):
    check(find, *problem(n, size, dim))


@both
def test_what_is_within_the_slack_is_not_sure(find):
    z, e, half, slack = problem(200, 300, 4)
    for wide in (0.0, 0.03, 0.3):
        check(find, z, e, half, np.full_like(slack, wide))
    share = [np.mean(find(z, e, half, np.full_like(slack, s)).sure) for s in (1e-4, 0.03, 0.3)]
    assert share[0] > 0.95 > share[1] > 0.5 > share[2]


@both
@hypothesis.settings(max_examples=8)  # each compiles
@hypothesis.given(
    n=st.integers(1, 80), size=st.integers(1, 300), dim=st.integers(1, 40), seed=st.integers(0, 99)
)
def test_ties_are_not_sure(find, n, size, dim, seed):
    z, e, half, slack = problem(n, size, dim, seed, integers=True)
    half[np.random.default_rng(seed).random(size) < 0.3] = np.inf
    best, k, sure = triple(scores64(z, e, half), slack)
    found = find(z, e, half, slack)
    np.testing.assert_array_equal(found.best, best)
    np.testing.assert_array_equal(np.where(sure, found.k, k), k)
    np.testing.assert_array_equal(found.sure, sure)


@both
def test_equal_codes_of_different_tiles(find):
    z, e, half, slack = problem(9, 300, 5)
    e, half = np.tile(e, (2, 1)), np.tile(half, 2)
    found = find(z, e, half, slack)
    assert not found.sure.any()


@both
def test_no_code_and_no_row(find):
    z, e, half, slack = problem(5, 3, 2)
    none = find(z, e, np.full_like(half, np.inf), slack)
    lost = find(np.full_like(z, np.nan), e, half, slack)
    for found in (none, lost):
        assert np.isinf(found.best).all() and (found.k == 0).all() and not found.sure.any()
    assert not find(z, e, half, np.full_like(slack, np.nan)).sure.any()


def test_of_no_rows_are_empties():
    z, e, half, slack = map(jnp.asarray, problem(0, 3, 2))
    found = kernel.search(z, e, half, slack)  # no interpreter: no kernel
    assert [(x.shape, x.dtype.name) for x in found] == [
        ((0,), "float32"), ((0,), "int32"), ((0,), "bool")
    ]  # fmt: skip


@hypothesis.given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 4))
def test_merging_is_the_triple_of_all(seed, first, second):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (50, first + second)).astype(np.float32)
    slack = rng.integers(0, 2, 50).astype(np.float32)
    a, b = triple(scores[:, :first], slack), triple(scores[:, first:], slack)
    b = b[0], first + b[1], b[2]
    merged = merge(*(Nearest(*map(jnp.asarray, x)) for x in (a, b)), jnp.asarray(slack))
    for got, expected in zip(merged, triple(scores, slack), strict=True):
        np.testing.assert_array_equal(got, expected)


H100 = {"device_kind": "NVIDIA H100", "num_cores": None, "platform": "gpu"}
# JAX 0.10.0 knows no platform here.
GPU = AbstractDevice(**{f.name: H100[f.name] for f in dataclasses.fields(AbstractDevice)})


def lower(find, platform, n=1000, size=700, dim=65):
    """The text for another platform. JAX lets no one serialize a kernel of Triton unasked.

    From JAX 0.12 on it asks which GPU is meant.
    """
    shape, f32 = jax.ShapeDtypeStruct, jnp.float32
    args = shape((n, dim), f32), shape((size, dim), f32), shape((size,), f32), shape((n,), f32)
    unstable = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    done = export.export(jax.jit(find), platforms=[platform], disabled_checks=[unstable])
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=GPU)):
        return done(*args).mlir_module()


def test_every_product_on_tpu_is_asked_for_in_full_precision():
    text = str(jax.make_jaxpr(kernel.on_tpu)(*map(jnp.asarray, problem(40, 24, 3))))
    highest = text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
    assert highest == text.count("dot_general[") == 1


TARGETS = {"cuda": "xla.gpu.triton", "rocm": "xla.gpu.triton", "tpu": "tpu_custom_call"}


@pytest.mark.parametrize("platform", TARGETS)
@pytest.mark.parametrize(("n", "size", "dim"), [(1, 1, 1), (1000, 700, 65), (4096, 64, 2048)])
def test_lowers_for_an_accelerator_that_is_not_here(platform, n, size, dim):
    assert f"@{TARGETS[platform]}" in lower(kernel.search, platform, n, size, dim).replace(
        "__gpu$", ""
    )


@pytest.mark.parametrize("platform", TARGETS)
@pytest.mark.parametrize("how", ["vmap", "x64", "platform_dependent", "shard_map"])
def test_lowers_within_what_users_write(platform, how):
    four = AbstractMesh((2, 2), ("a", "b"), (AxisType.Auto,) * 2, abstract_device=GPU)
    shards = mapped(by_platform, ("a", "b"), None, four)
    ways = {"vmap": batched, "platform_dependent": by_platform, "shard_map": shards}
    find = ways.get(how, kernel.search)
    with jax.enable_x64(how == "x64"):
        assert TARGETS[platform] in lower(find, platform)


def batched(z, e, half, slack):
    """Two batches of rows, one codebook."""
    two = jax.vmap(kernel.search, (0, None, None, 0))
    return two(jnp.stack([z, -z]), e, half, jnp.stack([slack, slack]))


def by_platform(*args):
    return jax.lax.platform_dependent(*args, cpu=plain, default=kernel.search)


def mapped(find, z_axes, e_axes, mesh=None):
    mesh = mesh or Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("a", "b"))
    specs = (P(z_axes), P(e_axes), P(e_axes), P(z_axes))
    out = P(tuple(a for a in ("a", "b") if a in (*(z_axes or ()), *(e_axes or ()))) or None)
    return jax.jit(jax.shard_map(find, mesh=mesh, in_specs=specs, out_specs=out))


AXES = [(("a", "b"), None), (("a",), ("b",)), (None, ("a", "b")), (None, None)]


@pytest.mark.parametrize(("z_axes", "e_axes"), AXES)
def test_varies_over_the_axes_that_rows_or_codes_vary_over(z_axes, e_axes):
    """The branch of the kernel is traced, and its types checked, where another one runs."""
    args = problem(40, 24, 3)
    mine, expected = (mapped(f, z_axes, e_axes)(*args) for f in (by_platform, plain))
    jax.tree.map(np.testing.assert_array_equal, mine, expected)


@both
def test_runs_on_shards(find):
    args = problem(40, 24, 3)
    on_shards = jax.shard_map(
        find, mesh=Mesh(jax.devices()[:4], ("a",)), check_vma=False,  # the interpreter fails it
        in_specs=(P("a"), P(), P(), P("a")), out_specs=P("a"),
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, on_shards(*args)[1:], jax.jit(plain)(*args)[1:])


@both
def test_batches_are_searched_one_by_one(find):
    (z, e, half, slack), (_, f, third, _) = problem(40, 200, 3), problem(40, 200, 3, seed=1)
    e, half = np.stack([e, f]), np.stack([half, third])
    found = jax.vmap(find, (None, 0, 0, None))(z, e, half, slack)
    for i in range(2):
        one = find(z, e[i], half[i], slack)
        jax.tree.map(np.testing.assert_array_equal, Nearest(*(x[i] for x in found)), one)


def test_traces_under_every_transformation_on_cpu():
    z, e, half, slack = map(jnp.asarray, problem(8, 6, 3))
    expected = plain(z, e, half, slack).k
    replicas = jax.pmap(by_platform, in_axes=(0, None, None, 0))
    split = replicas(z.reshape(2, 4, 3), e, half, slack.reshape(2, 4))
    np.testing.assert_array_equal(split.k.reshape(8), expected)
    np.testing.assert_array_equal(by_platform(z, e, half, slack).k, expected)

    def loss(z):
        k = by_platform(jax.lax.stop_gradient(z), e, half, slack).k
        return jnp.sum((z - e[k]) ** 2)

    gradient = jax.jit(jax.grad(jax.checkpoint(loss)))(z)
    np.testing.assert_allclose(gradient, 2 * (z - e[expected]), rtol=1e-6)


@pytest.fixture
def as_on_gpu(monkeypatch):
    """`nearest` as it is traced where the default backend is a GPU, and there is one."""
    jax.clear_caches()  # a trace of another test may have been made for eight CPUs
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    return lambda z, e: search.nearest.__wrapped__(z, e)  # traced anew


@pytest.mark.parametrize("platform", TARGETS)
def test_nearest_lowers_to_the_kernel(as_on_gpu, platform):
    assert TARGETS[platform] in lower(lambda z, e, half, slack: as_on_gpu(z, e), platform)


@pytest.mark.parametrize("how", ["jit", "shard_map", "vmap"])
def test_nearest_runs_on_the_cpu_of_a_machine_with_a_gpu(as_on_gpu, how):
    z, e, _, _ = map(jnp.asarray, problem(40, 24, 3))
    specs = {"in_specs": (P("a"), P()), "out_specs": P("a")}
    shards = jax.shard_map(as_on_gpu, mesh=Mesh(jax.devices()[:4], ("a",)), **specs)
    find = {"shard_map": shards, "vmap": jax.vmap(as_on_gpu, (0, None))}.get(how, as_on_gpu)
    np.testing.assert_array_equal(jax.jit(find)(z, e), nearest(z, e))


def test_arrays_that_the_compiler_shards_are_searched_without_the_kernel(as_on_gpu, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert TARGETS["tpu"] not in lower(lambda z, e, half, slack: as_on_gpu(z, e), "tpu")


@pytest.mark.parametrize("platform", TARGETS)
def test_without_triton_a_gpu_is_searched_in_blocks(as_on_gpu, monkeypatch, platform):
    monkeypatch.setattr(kernel, "SCANS", {"tpu": kernel.SCANS["tpu"]})
    text = lower(lambda z, e, half, slack: as_on_gpu(z, e), platform)
    assert (TARGETS[platform] in text) == (platform == "tpu")


@pytest.mark.parametrize("how", ["plain", "vmap", "in a function that was traced before"])
def test_a_scan_is_used_wherever_it_is_asked_for(as_on_gpu, monkeypatch, how):
    z, e, _, _ = problem(400, 24, 30)
    used, real = [], kernel.SCANS["cuda"].search
    counted = kernel.SCANS["cuda"]._replace(search=lambda *args: used.append(1) or real(*args))
    monkeypatch.setattr(kernel, "SCANS", {"cuda": counted})
    find = {"vmap": jax.vmap(nearest, (0, None))}.get(how, nearest)
    rows = z.reshape(2, 200, 30) if how == "vmap" else z
    expected = find(rows, e) if how.startswith("in a") else None
    assert bool(used) == how.startswith("in a")
    used.clear()
    with scans.scanned_by(scans.BLOCKS):
        found = find(rows, e)
    assert not used
    if expected is not None:
        np.testing.assert_array_equal(found, expected)
    find(rows, e)
    assert used or how.startswith("in a")  # which JAX has traced already


@pytest.mark.parametrize("batch", [None, 4])
def test_a_model_is_exported_where_there_is_a_gpu(as_on_gpu, batch):
    """A file for several platforms can't hold the kernel."""
    model = vj.VQVAE(vj.Encoder(1, 8, width=8), vj.vq(512, 8), vj.Decoder(1, 8, width=8))
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 28, 28, 1)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    bundle = Bundle(model, variables, "")
    exported = exported_files.export(bundle, (28, 28, 1), batch, ("cpu", "cuda", "tpu"))
    tokenize = export.deserialize(bytearray(exported["tokenize"].serialize())).call
    np.testing.assert_array_equal(tokenize(x), vj.as_functions(model).tokenize(variables, x))
