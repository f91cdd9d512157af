"""Stages that quantize what is left over, against float64, their closed forms and ResidualVQ."""

import itertools
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from compiling import jit

from vqvae_jax import ema_vq, stochastic_vq, straight_through, vq
from vqvae_jax.estimators import exactly
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.quantizers.codebooks.inits import kmeans, normal
from vqvae_jax.quantizers.combinators.beam import beam_search
from vqvae_jax.quantizers.combinators.dropout import draw_depths, quantizer_dropout
from vqvae_jax.quantizers.combinators.residual_quantization import repeat, residual, shared
from vqvae_jax.saving.describe import Function, described
from vqvae_jax.testing import trials

K, D, N = 6, 3, 40
KEY = jax.random.key(0)
SEEDED = {"init": kmeans(2), "reset": underused(0.5)}
Z = jnp.asarray(np.random.default_rng(0).normal(size=(N, D)), jnp.float32)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
same = np.testing.assert_array_equal
pytestmark = pytest.mark.filterwarnings("ignore:.*codes of the first batch repeat")


@described
def mixed(a: float, b: float) -> Function:
    """An estimator with gradient a to z_e and b to z_q."""
    return Function(lambda z_e, z_q: exactly(z_q, a * z_e + b * z_q))


@described
def first_only() -> Function:
    """A dropout that leaves every example one stage."""
    return Function(lambda key, n, shape: jnp.ones(shape, jnp.int32))


def training(q):
    return jit(partial(trials.training_step, q))


def codebooks(params):
    return [ref.f64(params[str(i)]["codebook"]) for i in range(len(params))]


def chain(z, es, depths=None):
    """Float64: what each stage sees, its codes, and the code vectors."""
    r, depths, stages = ref.f64(z), len(es) if depths is None else depths, []
    for i, e in enumerate(es):
        k = np.where(i < depths, ref.nearest64(r, e), -1)
        z_q = np.where((k >= 0)[:, None], e[k], 0)
        stages.append((r, k, z_q))
        r = r - z_q
    return stages


def three_stages(betas=(0.25, 1.0, 3.0), **options):
    qs = [vq(K + i, D, beta=b, init=normal(0.7), **options) for i, b in enumerate(betas)]
    q = residual(*qs)
    return q, *q.init(KEY)


def test_stages_quantize_what_is_left_over():
    q, params, state = three_stages()
    out, _ = q.apply(params, state, Z)
    stages = chain(Z, codebooks(params))
    same(out.indices, np.stack([k for _, k, _ in stages], -1))
    close(out.quantized, sum(z_q for *_, z_q in stages))
    errors = [ref.mse(r, z_q) for r, _, z_q in stages]
    close(out.losses["codebook"], sum(errors))
    close(out.losses["commitment"], 0.25 * errors[0] + errors[1] + 3 * errors[2])
    for i, error in enumerate(errors):
        close(out.metrics[f"{i}/error"], error)


@pytest.mark.parametrize("estimator", [straight_through, mixed(0.0, 1.0)])
def test_a_stage_moves_z_and_its_own_codes(estimator):
    """Also where stages' outputs have a gradient to their codebook, which must not reach it."""
    for alone in range(3):
        betas = [0.5 * (i == alone) for i in range(3)]
        q, params, state = three_stages(betas, estimator=estimator)

        def loss(p, z, q=q, state=state):
            return q.apply(p, state, z)[0].loss

        moved, dz = jax.grad(loss, (0, 1))(params, Z)
        stages = chain(Z, codebooks(params))
        r, _, z_q = stages[alone]
        close(dz, 2 * 0.5 * (r - z_q) / Z.size)
        for i, (r, k, z_q) in enumerate(stages):
            pull = ref.hits_and_totals(2 * (z_q - r) / Z.size, k, K + i)[1]
            close(moved[str(i)]["codebook"], pull)


def test_one_estimator_for_the_sum():
    qs = [vq(K, D, init=normal(), estimator=mixed(5.0, 0.0)) for _ in range(3)]
    for estimator, factor in ((straight_through, 1), (mixed(2.0, 0.0), 2)):
        for q in (residual(*qs, estimator=estimator), shared(qs[0], 3, estimator=estimator)):
            params, state = q.init(KEY)
            out, pull = jax.vjp(lambda z, q=q, p=params, s=state: q.apply(p, s, z)[0].quantized, Z)
            close(pull(np.cos(out))[0], factor * np.cos(ref.f64(out)))


@pytest.mark.parametrize(
    "make", [lambda q: residual(q, q, estimator=None), lambda q: repeat(q, 2, estimator=None)]
)
def test_without_an_estimator_the_stages_keep_their_gradients(make):
    """dq_i = a dr_i + b de_i and dr_2 = dz - dq_1: a (2 - a) to z, (1 - a) b and b to the codes."""
    a, b = 0.25, 3.0
    q = make(vq(K, D, init=normal(), estimator=mixed(a, b)))
    params, state = q.init(KEY)

    def task(params, z):
        out, _ = q.apply(params, state, z)
        return jnp.sum(jnp.sin(out.quantized)), out

    (dp, dz), out = jax.grad(task, (0, 1), has_aux=True)(params, Z)
    slope = np.cos(ref.f64(out.quantized))
    close(dz, a * (2 - a) * slope)
    for i, factor in enumerate(((1 - a) * b, b)):
        moved = dp[str(i)]["codebook"] if str(i) in dp else dp["codebook"][i]
        totals = ref.hits_and_totals(slope, np.asarray(out.indices[:, i]), K)[1]
        close(moved, factor * totals)


@pytest.mark.parametrize("base", [pytest.param(vq, marks=pytest.mark.slow), ema_vq])
def test_one_stage_is_that_stage(base):
    q = base(K, D, beta=2.0, estimator=mixed(2.0, 1.0), **SEEDED)
    start = q.init(KEY)
    expected = training(q)(*start, Z, KEY)
    wraps = {
        residual: lambda tree: {"0": tree},
        repeat: lambda tree: jax.tree.map(lambda x: x[None], tree),
        shared: lambda tree: tree,
    }
    for make, wrap in wraps.items():
        one = make(q) if make is residual else make(q, 1)
        chex.assert_trees_all_close(one.init(KEY), tuple(map(wrap, start)), rtol=1e-6)
        got = training(one)(*map(wrap, start), Z, KEY)
        for name in ("quantized", "indices", "losses"):
            chex.assert_trees_all_close(got[name], expected[name], rtol=1e-6)
        chex.assert_trees_all_close(got["state"], wrap(expected["state"]), rtol=1e-5, atol=1e-6)
        grads = wrap(expected["grads"][0]), expected["grads"][1]
        chex.assert_trees_all_close(got["grads"], grads, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("base", "options"),
    [
        pytest.param(vq, {}, marks=pytest.mark.slow),
        (ema_vq, {"dropout": quantizer_dropout(0.7), "estimator": mixed(2.0, 0.0)}),
    ],
)
def test_repeat_is_residual_of_equal_stages(base, options):
    n, q = 3, base(K, D, **SEEDED)
    many, one = residual(*[q] * n, **options), repeat(q, n, **options)
    assert (one.dim, one.vocab, one.stochastic) == (many.dim, many.vocab, many.stochastic)
    stack = lambda tree: jax.tree.map(lambda *x: np.stack(x), *[tree[str(i)] for i in range(n)])  # noqa: E731
    (params, state), (stacked, stacked_state) = many.init(KEY), one.init(KEY)
    chex.assert_trees_all_close((stacked, stacked_state), (stack(params), stack(state)), rtol=1e-6)
    step, scan = training(many), training(one)
    for t in range(3):
        z, key = Z[::-1] * (1 + t), jax.random.fold_in(KEY, t)
        a, b = step(params, state, z, key), scan(stacked, stacked_state, z, key)
        same(a["indices"], b["indices"])
        same(b["decoded"] if t else 0, b["quantized"] if t else 0)  # not before the first fit
        for name in ("quantized", "losses", "metrics"):
            chex.assert_trees_all_close(a[name], b[name], rtol=1e-5, atol=1e-6)
        (dp, dz), (dstacked, dz_scan) = a["grads"], b["grads"]
        chex.assert_trees_all_close((stack(dp), dz), (dstacked, dz_scan), rtol=1e-5, atol=1e-6)
        state, stacked_state = a["state"], b["state"]
        chex.assert_trees_all_close(stack(state), stacked_state, rtol=1e-5, atol=1e-6)


def test_repeat_is_compiled_once():
    """The compiled program of 16 stages is at most three times as long as that of one."""

    def length(q):
        apply = jit(partial(q.apply, train=True))
        return len(apply.lower(*q.init(KEY), Z, key=KEY).compile().as_text())

    q = ema_vq(K, D)
    assert length(repeat(q, 16)) < 3 * length(q)


def test_shared_makes_one_update_from_the_rows_of_all_stages():
    n, mask = 3, np.random.default_rng(1).choice([0, 1, 2], N).astype(np.float32)
    q = shared(ema_vq(K, D, 0.7, beta=2.0, init=normal(0.7)), n)
    state = q.init(KEY)[1]
    step = training(q)
    e = tuple(ref.f64(state[name]) for name in ("codebook", "counts", "sums"))
    for t in range(3):
        stages = chain(Z + 0.1 * t, [e[0]] * n)
        out = step({}, state, Z + np.float32(0.1 * t), KEY, mask)
        live = mask > 0
        same(out["indices"][live], np.stack([k for _, k, _ in stages], -1)[live])
        close(out["losses"]["commitment"], 2 * sum(ref.mse(r, q, mask) for r, _, q in stages))
        rows = np.concatenate([r for r, *_ in stages])
        e = ref.ema_step(rows, *e, 0.7, weights=np.tile(mask, n))
        state = out["state"]
        for name, value in zip(("codebook", "counts", "sums"), e, strict=True):
            close(state[name], value, rtol=1e-4, atol=1e-5)


def test_shared_codebook_moves_by_the_gradient_of_all_stages():
    q = shared(vq(K, D, init=normal()), 2)
    params, state = q.init(KEY)
    moved = jax.grad(lambda p: q.apply(p, state, Z)[0].loss)(params)["codebook"]
    stages = chain(Z, [ref.f64(params["codebook"])] * 2)
    pulls = [ref.hits_and_totals(2 * (z_q - r) / Z.size, k, K)[1] for r, k, z_q in stages]
    close(moved, sum(pulls))


def shares(dropout, n):
    depths = np.asarray(dropout(KEY, n, (20_000,)))
    return np.bincount(depths, minlength=n + 1)[1:] / len(depths)


def test_depths_are_drawn_as_described():
    near = partial(np.testing.assert_allclose, atol=0.015)
    near(shares(quantizer_dropout(), 4), [0.25] * 4)
    near(shares(quantizer_dropout(0.5), 4), [0.125] * 3 + [0.625])
    near(shares(quantizer_dropout(0.0), 3), [0, 0, 1])
    near(shares(quantizer_dropout(at_least=3), 4), [0, 0, 0.5, 0.5])
    near(shares(quantizer_dropout(multiple=2), 4), [0, 0.5, 0, 0.5])
    near(shares(quantizer_dropout(multiple=4), 6), [0, 0, 0, 4 / 6, 0, 2 / 6])


@pytest.mark.parametrize(
    "make",
    [
        lambda q: residual(q, q, q, dropout=quantizer_dropout(0.8)),
        lambda q: shared(q, 3, dropout=quantizer_dropout(0.8)),
    ],
)
def test_dropped_stages_see_nothing(make):
    base = ema_vq(K, D, 0.5, beta=2.0, init=normal(0.7))
    q, one = make(base), make(base).call.factory is shared
    params, state = q.init(KEY)
    z = Z.reshape(8, 5, D)
    out = training(q)(params, state, z, KEY)
    indices = np.asarray(out["indices"])
    depths = (indices >= 0).sum(-1)
    assert (depths == depths[:, :1]).all() and set(depths[:, 0]) == {1, 2, 3}
    es = [ref.f64(state["codebook"])] * 3 if one else codebooks(state)
    stages = chain(Z, es, depths.ravel())
    same(indices.reshape(N, 3), np.stack([k for _, k, _ in stages], -1))
    close(out["quantized"].reshape(N, D), sum(z_q for *_, z_q in stages))
    same(out["quantized"], out["decoded"])
    live = [k >= 0 for _, k, _ in stages]
    errors = [ref.mse(r[at], z_q[at]) for at, (r, _, z_q) in zip(live, stages, strict=True)]
    close(out["losses"]["commitment"], 2 * sum(errors))
    hits = [ref.hits_and_totals(r, k, K)[0] for r, k, _ in stages]
    counts = out["state"]["counts"] if one else [out["state"][str(i)]["counts"] for i in range(3)]
    close(counts, 0.5 + 0.5 * (sum(hits) if one else np.stack(hits)))


def test_a_stage_that_no_row_reaches_changes_nothing():
    q = repeat(ema_vq(K, D, **SEEDED), 3, dropout=first_only())
    state = q.init(KEY)[1]
    out, after = jit(partial(q.apply, train=True))({}, state, Z, key=KEY)
    same(out.indices[:, 1:], np.full((N, 2), -1))
    assert out.metrics["0/error"] > 0 and out.metrics["1/error"] == out.metrics["2/error"] == 0
    for name in state:
        same(after[name][1:], state[name][1:])
        assert (after[name][0] != state[name][0]).any()


def test_depths_and_stages_have_keys_of_their_own():
    seen = []
    key, _ = draw_depths(lambda key, *args: seen.append(key), 3, jnp.ones((2, 4)), True, KEY, None)
    keys = np.array([jax.random.key_data(k) for k in (KEY, key, *seen)])
    assert len(np.unique(keys, axis=0)) == 3


def test_dropout_is_for_training_and_needs_a_key():
    base = ema_vq(K, D, init=normal())
    for make in (partial(residual, base, base), partial(repeat, base, 2), partial(shared, base, 2)):
        q = make(dropout=quantizer_dropout())
        assert q.stochastic and not make().stochastic
        params, state = q.init(KEY)
        out, after = q.apply(params, state, Z)
        chex.assert_trees_all_equal(out, make().apply(params, state, Z)[0])
        assert after is state and (out.indices >= 0).all()
        with pytest.raises(ValueError, match="needs key= when train=True: its dropout"):
            q.apply(params, state, Z, train=True)


def test_stages_that_draw_make_it_stochastic():
    q = stochastic_vq(K, D)
    assert all(made.stochastic for made in (residual(vq(K, D), q), repeat(q, 2), shared(q, 2)))


def test_replicas_draw_depths_of_their_own():
    q = residual(*[ema_vq(K, D, init=normal())] * 3, dropout=quantizer_dropout())
    params, state = q.init(KEY)
    apply = partial(q.apply, params, state, train=True, key=KEY, axis_name="r")
    out, after = jit(jax.vmap(apply, axis_name="r"))(jnp.stack([Z, Z]))
    depths = (np.asarray(out.indices) >= 0).sum(-1)
    assert (depths[0] != depths[1]).any()
    jax.tree.map(lambda x: same(x[0], x[1]), after)


def test_a_single_row_is_an_example():
    q = residual(*[vq(K, D, init=normal())] * 3, dropout=first_only())
    out, _ = q.apply(*q.init(KEY), Z[0], train=True, key=KEY)
    assert out.indices[0] >= 0 and (out.indices[1:] == -1).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda q: residual(vq(4, D, init=normal()), residual(q, vq(5, D, init=normal(0.5)))),
        lambda q: repeat(q, 3),
        lambda q: shared(q, 3),
    ],
)
def test_decode_of_the_first_streams_and_of_one_code(make):
    q = make(ema_vq(K, D, init=normal(0.7)))
    params, state = q.init(KEY)
    out = jit(partial(trials.evaluate, q))(params, state, Z)
    same(out["decoded"], out["quantized"])
    streams = range(len(q.vocab))
    tables = []
    for i in streams:
        indices = np.full((q.vocab[i], len(q.vocab)), -1)
        indices[:, i] = np.arange(q.vocab[i])
        tables.append(q.decode(params, state, jnp.asarray(indices)))
    found = {np.asarray(e).tobytes() for e in tables}
    own = jax.tree.leaves((params, {k: v for k, v in flat(state).items() if "codebook" in k}))
    assert found == {np.asarray(e).tobytes() for x in own for e in x.reshape(-1, *x.shape[-2:])}
    for m in streams:
        indices = out["indices"].at[:, m + 1 :].set(-1)
        partial_sum = sum(ref.f64(tables[i])[out["indices"][:, i]] for i in range(m + 1))
        close(q.decode(params, state, indices), partial_sum)


def flat(tree):
    return {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(tree)}


# ---------------------------------------------------------------------------------- beam search


def beam64(z, es, width):
    """Beam search for one row in float64: codes and error."""
    beams = [((), ref.f64(z))]
    for e in es:
        grown = [((*c, k), r - e[k]) for c, r in beams for k in range(len(e))]
        beams = sorted(grown, key=lambda beam: np.square(beam[1]).sum())[:width]
    return beams[0][0]


search = jit(beam_search, static_argnums=(0, 4))


def on_grid(x, offset):
    """Multiples of 1/64 of which float32 can subtract any two exactly, far from 0 as well."""
    return jnp.asarray(np.round(64 * ref.f64(x)) / 64 + offset, jnp.float32)


@pytest.mark.parametrize("offset", [0, 4096])
def test_beam_search_against_float64(offset):
    """With an offset, products of vectors that are not centred round off all that counts."""
    q, params, state = three_stages()
    params = jax.tree.map(lambda e: on_grid(e, offset), params)
    es, rows, errors = codebooks(params), on_grid(Z, 3 * offset), []
    for width in (1, 2, 5, 16):
        codes = search(q, params, state, rows.reshape(4, 10, D), width).reshape(N, 3)
        same(codes, [beam64(row, es, width) for row in rows])
        errors.append(ref.mse(rows, sum(e[codes[:, i]] for i, e in enumerate(es))))
    assert errors == sorted(errors, reverse=True) and errors[3] < 0.9 * errors[0]


@pytest.mark.parametrize("make", [partial(repeat, n=4), partial(shared, n=4)])
def test_width_one_is_greedy(make):
    q = make(ema_vq(12, D, init=normal()))
    params, state = q.init(KEY)
    same(search(q, params, state, Z, 1), q.encode(params, state, Z))


def test_a_beam_as_wide_as_all_codes_is_exhaustive():
    q = residual(vq(3, 2, init=normal()), vq(4, 2, init=normal()), vq(2, 2, init=normal()))
    params, state = q.init(KEY)
    params, z = jax.tree.map(lambda e: on_grid(e, 0), params), on_grid(Z.reshape(-1, 2), 0)
    codes, es = search(q, params, state, z, 24), codebooks(params)
    every = np.stack([sum(codes) for codes in itertools.product(*es)])
    chosen = sum(e[codes[:, i]] for i, e in enumerate(es))
    same(np.square(z - chosen).sum(-1), np.square(z[:, None] - every).sum(-1).min(-1))


def test_beam_search_of_bad_rows_and_codes():
    q, params, state = three_stages()
    params["1"]["codebook"] = params["1"]["codebook"].at[2:].set(jnp.nan)
    z = Z.at[3, 1].set(jnp.nan)
    codes = np.asarray(search(q, params, state, z, 50))
    same(codes[3], [-1, -1, -1])
    es = codebooks(params)
    es[1] = es[1][:2]
    same(np.delete(codes, 3, 0), [beam64(row, es, 50) for row in np.delete(Z, 3, 0)])
    params["1"]["codebook"] = params["1"]["codebook"].at[:].set(jnp.nan)
    assert (search(q, params, state, z, 2) == -1).all()
    with pytest.raises(ValueError, match="width must be an integer >= 1, got 0"):
        beam_search(q, params, state, z, 0)


# -------------------------------------------------------------------------------- peer, errors


def test_vector_quantize_pytorch():
    """Its task gradient arrives once per stage, ours once: the rest is equal."""
    path = Path(__file__).parents[1] / "golden" / "vqt_residual.npz"
    g = dict(np.load(path))
    stages, size, dim = g["codebooks"].shape
    q = repeat(ema_vq(size, dim, 0.8), stages)
    e = jnp.asarray(g["codebooks"])
    state = {"codebook": e, "counts": jnp.ones((stages, size)), "sums": e}

    @jit
    def step(state, z):
        def objective(z):
            out, new = q.apply({}, state, z, train=True)
            return stages * jnp.sum(jnp.cos(out.quantized)) + out.loss, (out, new)

        return jax.grad(objective, has_aux=True)(z)

    for t, z in enumerate(g["batches"][:-1]):
        dz, (out, state) = step(state, z)
        same(out.indices, g["indices"][t])
        close(out.quantized, g["quantized"][t])
        close([0.25 * out.metrics[f"{i}/error"] for i in range(stages)], g["losses"][t])
        close(out.loss, g["losses"][t].sum())
        close(dz, g["dz"][t], atol=1e-5)
        for ours, theirs in {"codebook": "codebooks_after", "counts": "counts"}.items():
            close(state[ours], g[theirs][t])
        close(state["sums"], g["sums"][t])
    out, _ = q.apply({}, state, jnp.asarray(g["batches"][-1]))
    same(out.indices, g["eval_indices"])
    close(out.quantized, g["eval_quantized"])


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (ValueError, lambda: residual(), "needs at least one quantizer, got none"),
        (ValueError, lambda: residual(vq(4, 2), vq(4, 3)), r"the same dim, got \[2, 3\]"),
        (TypeError, lambda: residual(vq(4, 2), "vq"), "member 1 must be a Quantizer, got str"),
        (TypeError, lambda: repeat(4, 2), "member 0 must be a Quantizer, got int"),
        (ValueError, lambda: repeat(vq(4, 2), 0), "n must be an integer >= 1, got 0"),
        (TypeError, lambda: shared(None, 2), "must be a Quantizer, got NoneType"),
        (ValueError, lambda: shared(vq(4, 2), 2.0), "n must be an integer >= 1, got 2.0"),
        (ValueError, lambda: quantizer_dropout(1.5), r"share must be in \[0, 1\], got 1.5"),
        (ValueError, lambda: quantizer_dropout(multiple=0), "multiple must be an integer >= 1"),
        (ValueError, lambda: quantizer_dropout(at_least=0), "at_least must be an integer >= 1"),
        (
            ValueError,
            lambda: quantizer_dropout(at_least=3)(KEY, 2, ()),
            "at_least must be at most 2",
        ),
        (ValueError, lambda: repeat(vq(4, 2), 2).decode({}, {}, jnp.zeros((3, 3), int)), "indices"),
        (ValueError, lambda: shared(vq(4, 2), 2).apply({}, {}, jnp.ones((3, 3))), "z must be"),
    ],
)
def test_arguments_out_of_range_are_named(as_users, error, call, message):
    with pytest.raises(error, match=message):
        call()
