"""The pyramid of VAR, against a transcription of its two algorithms in NumPy and float64."""

import functools
import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref

import vqvae_jax as vj
from vqvae_commands.run.model_metrics import evaluate
from vqvae_jax import ema_vq, vq
from vqvae_jax.data.pipeline import batch_indices
from vqvae_jax.data.sources import EMBEDDED, open_source
from vqvae_jax.models.pyramid import Phi, Pyramid, area
from vqvae_jax.quantizers import RNG, STATE
from vqvae_jax.training.step import init_state, make_train_step

KEY, SIZE, DIM = jax.random.key(0), 12, 3
SIZES = ((1, 1), (2, 3), (5, 4))  # sides that do not divide one another
RNGS = np.random.default_rng(1)
X = RNGS.normal(size=(4, 5, 4, DIM)) + RNGS.normal(size=(4, 1, 1, DIM))  # so that 1 x 1 differs
X = X.astype(np.float32)
equal, close = np.testing.assert_array_equal, np.testing.assert_allclose


class Scale(nn.Module):
    """x times a parameter: an encoder and a decoder that leave the rest to the pyramid."""

    start: float = 1.0

    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.constant(self.start), ())


class Patches(nn.Module):
    """A linear encoder of 4 x 4 pixels, or its decoder: compiled in no time."""

    features: int
    decodes: bool = False

    @nn.compact
    def __call__(self, x):
        if self.decodes:
            x = nn.Dense(16)(x).reshape(-1, 7, 7, 4, 4)
            return x.transpose(0, 1, 3, 2, 4).reshape(-1, 28, 28, 1)
        x = x.reshape(-1, 7, 4, 7, 4).transpose(0, 1, 3, 2, 4)
        return nn.Dense(self.features)(x.reshape(-1, 7, 7, 16))


def build(quantizer, sizes=SIZES, **options):
    return Pyramid(Scale(), quantizer, Scale(2.0), sizes, **options)


MODEL = build(ema_vq(SIZE, DIM, 0.9, init=vj.inits.normal()))


@functools.cache
def variables(model=MODEL):
    return jax.jit(model.init)(KEY, X)


@functools.cache
def training(model=MODEL):
    """(variables, x, mask) -> (rec, new collections)."""

    def train(v, x, mask=None):
        return model.apply(v, x, train=True, mask=mask, mutable=[STATE], rngs={RNG: KEY})

    return jax.jit(train)


@functools.cache
def method(name, model=MODEL):
    return jax.jit(functools.partial(model.apply, method=name))


def area64(x, size):
    """Each cell by itself: adaptive average pooling."""
    cells = np.zeros((len(x), *size, x.shape[-1]))
    for at in itertools.product(*map(range, size)):
        spans = zip(at, size, x.shape[1:-1], strict=True)
        window = tuple(slice(i * m // n, -(-(i + 1) * m // n)) for i, n, m in spans)
        cells[(slice(None), *at)] = x[(slice(None), *window)].mean((1, 2))
    return cells


def cubic_weights(n, m):
    """Keys' kernel (a = -1/2) at the m centres among n samples, renormalised at the ends."""
    t = np.abs((np.arange(m)[:, None] + 0.5) * n / m - 0.5 - np.arange(n))
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    w = np.where(t < 1, near, np.where(t < 2, far, 0))
    return w / w.sum(1, keepdims=True)


def conv64(h, kernel):
    """A 3 x 3 convolution that pads with zeros."""
    padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = (
        padded[:, i : i + h.shape[1], j : j + h.shape[2]] @ kernel[i, j]
        for i, j in itertools.product(range(3), repeat=2)
    )
    return sum(shifted)


def pyramid64(f, codebook, kernels, sizes=SIZES, ratio=0.5):
    """Rows, indices and the sum f_s after each scale."""
    f, codebook, f_s, steps = ref.f64(f), ref.f64(codebook), 0.0, []
    for size, kernel in zip(sizes, kernels, strict=True):
        rows = area64(f - f_s, size)
        k = ref.nearest64(rows.reshape(-1, DIM), codebook).reshape(rows.shape[:-1])
        h = codebook[k]
        rows_w, columns_w = (cubic_weights(n, m) for n, m in zip(size, f.shape[1:3], strict=True))
        h = np.einsum("hi,wj,bijc->bhwc", rows_w, columns_w, h)
        f_s = f_s + (1 - ratio) * h + ratio * conv64(h, ref.f64(kernel))
        steps.append((rows, k, f_s))
    return steps


@functools.cache
def expected():
    v = variables()
    kernels = [v["params"][f"phis_{s}"]["Conv_0"]["kernel"] for s in range(len(SIZES))]
    return pyramid64(X, v[STATE]["codes"]["state"]["codebook"], kernels)


def flat64(values, *shape):
    return np.concatenate([v.reshape(len(X), -1, *shape) for v in values], axis=1)


def test_codes_and_sums_after_each_scale():
    maps, rec = method("tokenize")(variables(), X), jax.jit(MODEL.apply)(variables(), X)
    for ours, (_, k, _), size in zip(maps, expected(), SIZES, strict=True):
        equal(ours[..., 0], k)
        assert ours.shape == (len(X), *size, 1) and len(np.unique(ours)) > 1
    close(rec.z_q, expected()[-1][2], rtol=1e-5, atol=1e-5)
    equal(rec.indices[..., 0], flat64([k for _, k, _ in expected()]))
    chex.assert_trees_all_equal(MODEL.split(rec.indices), maps)
    for size, (_, _, f_s) in zip(SIZES, expected(), strict=True):
        error = rec.metrics["x".join(map(str, size)) + "/error"]
        close(error, np.square(X - f_s).mean(), rtol=1e-5)


def test_the_first_maps_decode_to_the_sum_of_their_scales():
    maps = method("tokenize")(variables(), X)
    detokenize, nothing = method("detokenize"), [jnp.full_like(m, -1) for m in maps]
    for m, (_, _, f_s) in enumerate(expected(), start=1):
        x = detokenize(variables(), maps[:m])
        close(x, 2 * f_s, rtol=1e-5, atol=1e-5)
        close(x, detokenize(variables(), [*maps[:m], *nothing[m:]]), atol=1e-6)
    close(x, jax.jit(MODEL.apply)(variables(), X).x, atol=1e-6)
    equal(detokenize(variables(), nothing), 0)


def test_one_update_of_the_codebook_from_the_rows_of_all_scales():
    rec, new = training()(variables(), X)
    rows = flat64([rows for rows, _, _ in expected()], DIM)
    state = variables()[STATE]["codes"]["state"]
    names = ("codebook", "counts", "sums")
    after = ref.ema_step(rows.reshape(-1, DIM), *(ref.f64(state[n]) for n in names), 0.9)
    for name, value in zip(names, after, strict=True):
        close(new[STATE]["codes"]["state"][name], value, rtol=1e-5, atol=1e-6)
    codes = ref.f64(state["codebook"])[flat64([k for _, k, _ in expected()])]
    close(rec.losses["commitment"], 0.25 * np.square(rows - codes).mean(), rtol=1e-5)
    errors = [np.square(X - f_s).mean() for _, _, f_s in expected()]
    close(rec.losses["pyramid"], np.mean(errors), rtol=1e-5)
    counts = np.bincount(rec.indices.ravel(), minlength=SIZE)
    close(
        rec.metrics["perplexity_batch"],
        vj.metrics.usage(jnp.float32(counts))["perplexity"],
        rtol=1e-5,
    )
    close(rec.metrics["1x1/perplexity_batch"], perplexity64(expected()[0][1]), rtol=1e-5)


def perplexity64(k):
    p = np.bincount(np.ravel(k), minlength=SIZE) / np.size(k)
    return np.exp(-sum(p[p > 0] * np.log(p[p > 0])))


def test_what_each_loss_moves():
    model = build(vq(SIZE, DIM, init=vj.inits.normal(), beta=0.5))

    @jax.jit
    def gradients(params):
        def terms(params):
            rec = model.apply({"params": params}, jnp.asarray(X), train=True, mutable=[STATE])[0]
            return rec.losses | {"task": jnp.sum(jnp.cos(rec.x)), "grid": rec.z_q.sum()}

        return jax.jacrev(terms)(params)

    grads = gradients(variables(model)["params"])
    moves = {
        "task": {"encoder", "decoder"},
        "grid": {"encoder"},
        "codebook": {"codes"},
        "commitment": {"encoder"},
        "pyramid": {"codes", "phis_0", "phis_1", "phis_2"},
    }
    for term, moved in moves.items():
        for part, gradient in grads[term].items():
            assert any(map(np.any, jax.tree.leaves(gradient))) == (part in moved), (term, part)
    close(grads["grid"]["encoder"]["scale"], X.sum(), rtol=1e-4)  # dL/df := dL/df_S


@pytest.mark.parametrize("poison", [None, np.nan])
def test_an_example_that_does_not_count_changes_nothing(poison):
    spoilt, mask = X.copy(), jnp.array([1.0, 0.0, 1.0, 1.0])
    spoilt[1] = 50
    if poison is not None:
        spoilt[1, 2, 3, 0], mask = poison, None
    rec, new = training()(variables(), spoilt, mask)
    kept, after = training()(variables(), np.delete(X, 1, axis=0), jnp.ones(3))
    invalid = rec.metrics.pop("invalid_rows")
    assert invalid == (0 if poison is None else 27)
    kept.metrics.pop("invalid_rows")
    chex.assert_trees_all_close((rec.losses, rec.metrics), (kept.losses, kept.metrics), rtol=1e-5)
    chex.assert_trees_all_close(new, after, rtol=1e-5, atol=1e-6)
    equal(rec.indices[1], -1)
    equal(rec.z_q[1], 0)
    equal(np.delete(rec.indices, 1, axis=0), kept.indices)


def test_a_batch_without_a_valid_example_changes_nothing():
    rec, new = training()(variables(), X, jnp.zeros(4))
    chex.assert_trees_all_equal(new[STATE], variables()[STATE])
    assert rec.loss == 0


def test_replicas_equal_one_device():
    mask = jnp.array([1.0, 0.5, 0.0, 2.0])
    rec, new = training()(variables(), X, mask)

    def step(x, mask):
        return MODEL.apply(variables(), x, train=True, mask=mask, axis_name="r", mutable=[STATE])

    many, states = jax.jit(jax.vmap(step, axis_name="r"))(
        X.reshape(2, 2, 5, 4, DIM), mask.reshape(2, 2)
    )
    for i in (0, 1):
        ours = jax.tree.map(lambda a, i=i: a[i], (many.losses, many.metrics, states))
        chex.assert_trees_all_close(ours, (rec.losses, rec.metrics, new), rtol=1e-5, atol=1e-6)
    equal(many.indices.reshape(rec.indices.shape), rec.indices)


def test_without_phi_a_single_scale_is_a_vqvae():
    q = ema_vq(SIZE, DIM, init=vj.inits.normal())
    model, plain = build(q, SIZES[-1:], phi=None), vj.VQVAE(Scale(), q, Scale(2.0))
    rec, new = training(model)(variables(model), X)
    assert set(variables(model)["params"]) == {"encoder", "decoder"}
    other, expected = training(plain)(variables(model), X)
    equal(rec.x, other.x)
    equal(rec.indices, other.indices.reshape(rec.indices.shape))
    chex.assert_trees_all_close(new, expected, rtol=1e-6)
    close(rec.losses["commitment"], other.losses["commitment"], rtol=1e-6)


@pytest.mark.parametrize("sizes", [((1,), (3,), (6,)), ((1, 1, 1), (2, 1, 2), (2, 3, 4))])
def test_one_and_three_spatial_axes(sizes):
    model, x = build(vq(SIZE, DIM), sizes), jnp.zeros((2, *sizes[-1], DIM))
    v = jax.eval_shape(model.init, KEY, x)
    rec, _ = jax.eval_shape(lambda v: model.apply(v, x, train=True, mutable=[STATE]), v)
    maps = jax.eval_shape(functools.partial(model.apply, method="tokenize"), v, x)
    assert rec.x.shape == x.shape and rec.indices.shape == (2, sum(map(np.prod, sizes)), 1)
    assert [m.shape for m in maps] == [(2, *size, 1) for size in sizes]


def test_area_is_a_mean_and_the_whole_is_itself():
    for size in ((1, 1), (3, 2), (4, 4), (5, 4)):
        close(area(jnp.asarray(X), size), area64(ref.f64(X), size), rtol=1e-5, atol=1e-6)
    equal(area(jnp.asarray(X), (5, 4)), X)


def test_a_pyramid_is_its_json():
    model = Pyramid(vj.Encoder(dim=3), vq(8, 3), vj.Decoder(dim=3), SIZES, Phi(0.25))
    names = {"Pyramid": Pyramid, "Phi": Phi}
    assert vj.from_json(vj.to_json(model, names), names) == model


def test_what_does_not_fit_is_named(as_users):
    def init(model, x=X):
        jax.eval_shape(model.init, KEY, x)

    with pytest.raises(ValueError, match=r"to the last of the sizes, \(5, 4\).* to \(4, 5\)"):
        init(MODEL, X.swapaxes(1, 2))
    with pytest.raises(ValueError, match="sizes of one rank"):
        init(build(vq(4, DIM), ((1,), (5, 4))))
    with pytest.raises(ValueError, match=r"must not exceed the last one, \(5, 4\), got \(6, 1\)"):
        init(build(vq(4, DIM), ((6, 1), (5, 4))))
    with pytest.raises(ValueError, match="side must be an integer >= 1, got 0"):
        init(build(vq(4, DIM), ((0, 1), (5, 4))))
    maps = [jnp.zeros((1, *size, 1), int) for size in SIZES]
    detokenize = functools.partial(MODEL.apply, variables(), method="detokenize")
    with pytest.raises(ValueError, match=r"map 1 must be \[B, \(2, 3\), Q\], got shape \(1, 5, 4"):
        detokenize([maps[0], maps[2]])
    for wrong in ([], [*maps, maps[0]]):
        with pytest.raises(ValueError, match=f"needs 1 to 3 maps of indices, got {len(wrong)}"):
            detokenize(wrong)


def test_it_learns_images():
    train, test = map(open_source(EMBEDDED), ("train", "test"))
    q = ema_vq(64, 8, init=vj.inits.samples())
    model, optimizer = (
        Pyramid(Patches(8), q, Patches(16, True), ((1, 1), (3, 3), (7, 7))),
        optax.adam(1e-2),
    )
    state, step = (
        init_state(model, optimizer, KEY, train),
        jax.jit(make_train_step(model, optimizer)),
    )
    for i in range(80):
        state, metrics = step(state, train[batch_indices(0, i, 16, len(train))])
    assert state.skipped == 0 and metrics["7x7/error"] < metrics["1x1/error"]
    table, counts = evaluate(model, state.variables, test[:200])
    assert table["psnr"] > 13 and table["perplexity"] > 16
    assert counts[""].sum() == 200 * (1 + 9 + 49)
