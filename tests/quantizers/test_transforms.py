"""Codebooks made of codebooks: cosine, held, affine, matched, SimVQ; in float64 and of the peer."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from compiling import jit

import vqvae_jax as vj

K, D, N = 6, 4, 24
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
E = RNG.normal(size=(K, D)).astype(np.float32)
Z = (3 + 2 * RNG.normal(size=(N, D))).astype(np.float32)
WEIGHTS = RNG.choice([0, 0.5, 1, 2], N).astype(np.float32)
GIVEN = vj.inits.given(E)
HELD = np.array([True, False, False, True, False, True])
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
same = np.testing.assert_array_equal
pytestmark = pytest.mark.filterwarnings("ignore:.*codes of the first batch repeat")


@vj.described
def half_dead() -> vj.estimators.Function:
    """A rule by which the first codes are always dead."""
    return vj.estimators.Function(lambda counts: jnp.arange(len(counts)) < len(counts) // 2)


def golden(name):
    return dict(np.load(Path(__file__).parents[1] / "golden" / f"{name}.npz"))


def unit64(x):
    return ref.f64(x) / np.linalg.norm(ref.f64(x), axis=-1, keepdims=True)


def train(q, params, state, z, mask=None):
    """sum(cos(quantized)) + loss, with the gradients for params and rows; and what came out."""

    def loss(params, z):
        out, new = q.apply(params, state, z, train=True, key=KEY, mask=mask)
        return jnp.sum(jnp.cos(out.quantized)) + out.loss, (out, new)

    (dparams, dz), (out, new) = jax.grad(loss, (0, 1), has_aux=True)(params, jnp.asarray(z))
    return dparams, dz, out, new


def codes_of(q, params, state):
    return q.decode(params, state, jnp.arange(q.vocab[0])[:, None])


def test_cosine_vq_is_a_quantizer_on_the_sphere():
    q = vj.cosine_vq(K, D, beta=0.5, init=GIVEN)
    params, state = q.init(KEY)
    dparams, dz, out, _ = train(q, params, state, Z)
    u, e, length = unit64(Z), unit64(E), np.linalg.norm(ref.f64(Z), axis=-1, keepdims=True)
    k = (u @ e.T).argmax(-1)
    assert (k != ref.nearest64(Z, E)).any()
    same(out.indices[:, 0], k)
    close(out.quantized, e[k])
    close(out.losses["codebook"], ref.mse(u, e[k]))
    close(out.losses["commitment"], 0.5 * ref.mse(u, e[k]))
    du = -np.sin(e[k]) + 0.5 * 2 / Z.size * (u - e[k])
    close(dz, (du - u * (u * du).sum(-1, keepdims=True)) / length)
    de = ref.hits_and_totals(2 / Z.size * (e[k] - u), k, K)[1]
    across = de - e * (e * de).sum(-1, keepdims=True)
    close(dparams["inner"]["inner"]["codebook"], across / np.linalg.norm(E, axis=-1, keepdims=True))


def test_cosine_moving_averages_of_the_peer():
    """Its codebook is normalised when written, ours when read: sums and counts are the same."""
    g = golden("vqt_cosine")
    options = json.loads(str(g["options"]))
    q = vj.cosine_ema_vq(K, D, options["decay"], beta=options["commitment_weight"], init=GIVEN)
    params, state = q.init(KEY)
    start = {"codebook": g["codebook"], "counts": np.ones(K, np.float32), "sums": g["codebook"]}
    state = {"inner": {"inner": jax.tree.map(jnp.asarray, start)}}
    step = jit(partial(train, q))
    for t, z in enumerate(g["batches"]):
        _, dz, out, state = step(params, state, z)
        same(out.indices[:, 0], g["indices"][t])
        close(out.quantized, g["quantized"][t])
        close(out.loss, g["loss"][t])
        close(dz, g["dz"][t])
        for name in ("counts", "sums"):
            close(state["inner"]["inner"][name], g[name][t])
        close(codes_of(q, params, state), g["codebook_after"][t])


def test_unit_codes_of_kmeans_are_the_directions_of_the_centroids():
    centres = 5 * np.eye(D)
    z = np.repeat(centres, 6, axis=0) + 0.05 * RNG.normal(size=(6 * D, D))
    q = vj.cosine_ema_vq(D, D, init=vj.inits.kmeans(5))
    params, state = q.init(KEY)
    _, _, out, new = train(q, params, state, z.astype(np.float32))
    codes = codes_of(q, params, new)
    close(np.linalg.norm(codes, axis=-1), 1)
    used = codes[np.unique(out.indices)]
    assert (np.max(used @ np.eye(D), axis=-1) > 0.9).all() and out.metrics["error"] < 0.05


STAGES = {
    "learnt": vj.codebook_vq(
        vj.codebooks.partly_frozen(vj.codebooks.gradient(K, D, init=GIVEN), HELD)
    ),
    "averaged": vj.codebook_vq(
        vj.codebooks.partly_frozen(vj.codebooks.ema(K, D, 0.8, init=GIVEN, reset=half_dead()), HELD)
    ),
    "unit": vj.codebook_vq(
        vj.codebooks.partly_frozen(
            vj.codebooks.unit_codes(vj.codebooks.gradient(K, D, init=GIVEN)), HELD
        )
    ),
    "below unit": vj.codebook_vq(
        vj.codebooks.unit_codes(
            vj.codebooks.partly_frozen(vj.codebooks.gradient(K, D, init=GIVEN), HELD)
        )
    ),
}


@pytest.mark.parametrize("names", [["learnt", "averaged"], ["unit", "below unit"]])
def test_held_codes_stay_bit_by_bit_under_everything_that_moves_the_others(names):
    """A hundred steps of gradients, weight decay, moving averages and revived codes."""
    q = vj.residual(*[STAGES[name] for name in names])
    params, state = q.init(KEY)
    optimizer = optax.adamw(1e-2, weight_decay=0.1)
    everything = jnp.arange(K)[:, None]

    def codes(params, state):
        return [
            q.decode(params, state, jnp.full((K, 2), -1).at[:, i : i + 1].set(everything))
            for i in range(2)
        ]

    def step(carry, z):
        params, state, moments = carry
        grads, _, _, state = train(q, params, state, z)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), state, moments), None

    @jit
    def run(carry, zs):
        after = jax.lax.scan(step, carry, zs)[0]
        return codes(*carry[:2]), codes(*after[:2])

    zs = jax.random.normal(KEY, (100, N, D))
    for name, before, after in zip(names, *run((params, state, optimizer.init(params)), zs),
                                   strict=True):  # fmt: skip
        start = unit64(E) if "unit" in name else E
        close(before, start)
        same(after[HELD], before[HELD])
        assert (np.abs(after - before)[~HELD].max(-1) > 1e-3).all()


def test_held_needs_a_truth_value_for_each_code(as_users):
    for mask in ([True] * 3, [1] * K):
        with pytest.raises(ValueError, match="mask must be 6 truth values, got"):
            vj.codebooks.partly_frozen(vj.codebooks.gradient(K, D), mask)


def affine_params(codebook):
    scale, shift = jnp.float32([0.1, -0.05, 0, 0.2]), jnp.float32([0.3, 0.1, -0.2, 0])
    return {"inner": {"codebook": codebook}, "scale": scale, "shift": shift}


def test_affine_codes_and_their_gradients():
    q = vj.affine_vq(K, D, rate=2.0, init=GIVEN)
    params, state = q.init(KEY)
    same(codes_of(q, params, state), E)
    params = affine_params(jnp.asarray(E))
    s, b = 1 + 2 * ref.f64(params["scale"]), 2 * ref.f64(params["shift"])
    e = s * E + b
    dparams, dz, out, _ = train(q, params, state, Z)
    k = ref.nearest64(Z, e)
    same(out.indices[:, 0], k)
    close(out.quantized, e[k])
    close(out.losses["codebook"], ref.mse(Z, e[k]))
    pull = 2 / Z.size * (e[k] - Z)
    close(dz, -np.sin(e[k]) - 0.25 * pull)
    close(dparams["inner"]["codebook"], s * ref.hits_and_totals(pull, k, K)[1])
    close(dparams["scale"], 2 * (pull * E[k]).sum(0))
    close(dparams["shift"], 2 * pull.sum(0))


def is_row_of(codes, z, tol):
    return np.sqrt(ref.distances(codes, z).clip(0).min(-1)) < tol


def revive_half(book, params, state):
    """The codes after a step in which all rows choose the last code."""
    rows = vj.reductions.Rows(jnp.asarray(Z), jnp.ones(N), jnp.array(True), jnp.zeros(()))
    new = book.update(params, state, KEY, rows, jnp.full(N, K - 1), None)
    return book.codes(params, new), new


@pytest.mark.parametrize("make", [vj.codebooks.gradient, vj.codebooks.ema])
def test_revived_codes_decode_to_rows_of_the_batch(make):
    book = vj.codebooks.affine(make(K, D, init=GIVEN, reset=half_dead()), 2.0)
    params, state = book.init(KEY)
    params = affine_params(jnp.asarray(E)) | {"inner": params["inner"]}
    codes, _ = revive_half(book, params, state)
    same(is_row_of(codes, Z, 1e-4), np.arange(K) < K // 2)


def test_matched_revives_codes_at_rows_by_the_statistics_before_them():
    """What is revived moves the mean of all codes, so it is a row only as the others stood."""
    book = vj.codebooks.moment_matched(vj.codebooks.gradient(K, D, init=GIVEN, reset=half_dead()))
    params, state = book.init(KEY)
    state |= {"mean": jnp.arange(4.0), "variance": jnp.float32([1, 4, 0.25, 9])}
    _, new = revive_half(book, params, state)
    below, old = E + ref.f64(new["inner"]["offset"]), ref.f64(E)
    ratio = np.sqrt((ref.f64(state["variance"]) + 1e-5) / (old.var(0) + 1e-5))
    codes = (below - old.mean(0)) * ratio + ref.f64(state["mean"])
    same(is_row_of(codes, Z, 1e-4), np.arange(K) < K // 2)


def test_kmeans_through_an_affine_map_decodes_to_the_centroids():
    centres = 8 * np.eye(D) + 20
    z = (np.repeat(centres, 6, axis=0) + 0.1 * RNG.normal(size=(6 * D, D))).astype(np.float32)
    book = vj.codebooks.affine(vj.codebooks.gradient(D, D, init=vj.inits.kmeans(5)), 2.0)
    q = vj.codebook_vq(book)
    params, state = q.init(jax.random.key(3))
    params = affine_params(params["inner"]["codebook"])
    _, _, out, new = train(q, params, state, z)
    k, codes = np.asarray(out.indices[:, 0]), np.asarray(codes_of(q, params, new))
    hits, totals = ref.hits_and_totals(z, k, D)
    close(codes[hits > 0], totals[hits > 0] / hits[hits > 0, None], rtol=1e-4)


def test_matched_codes_have_the_mean_and_deviation_of_the_rows():
    q = vj.codebook_vq(
        vj.codebooks.moment_matched(vj.codebooks.gradient(K, D, init=GIVEN), decay=0.7), beta=0.5
    )
    params, state = q.init(KEY)
    close(codes_of(q, params, state), E)
    m, v = ref.f64(E).mean(0), ref.f64(E).var(0)
    step = jit(partial(train, q))
    for t in range(3):
        z = Z * (1 + t)
        spread = np.sqrt((v + 1e-5) / (ref.f64(E).var(0) + 1e-5))
        e = (E - ref.f64(E).mean(0)) * spread + m
        _, _, out, state = step(params, state, z, jnp.asarray(WEIGHTS))
        k = ref.nearest64(z, e)
        same(out.indices[:, 0], np.where(WEIGHTS > 0, k, -1))
        close(out.losses["codebook"], ref.mse(z, e[k], WEIGHTS))
        mean = np.average(ref.f64(z), axis=0, weights=WEIGHTS)
        variance = np.average(np.square(z - mean), axis=0, weights=WEIGHTS)
        decay = 0.7 if t else 0.0  # the first batch sets both
        m, v = ref.ema(m, mean, decay), ref.ema(v, variance, decay)
        close(state["mean"], m)
        close(state["variance"], v)
    codes = ref.f64(codes_of(q, params, state))
    close(codes.mean(0), m)
    close(codes.std(0), np.sqrt(v), rtol=1e-4)


def test_matched_statistics_are_those_of_all_replicas():
    q = vj.codebook_vq(
        vj.codebooks.moment_matched(vj.codebooks.gradient(K, D, init=GIVEN), decay=0.7)
    )
    params, state = q.init(KEY)
    _, whole = q.apply(params, state, jnp.asarray(Z), train=True)
    step = lambda z: q.apply(params, state, z, train=True, axis_name="i")[1]  # noqa: E731
    shards = jit(jax.vmap(step, axis_name="i"))(jnp.asarray(Z).reshape(2, -1, D))
    for name in ("mean", "variance"):
        close(shards[name], np.tile(whole[name], (2, 1)))


@pytest.mark.parametrize("name", ["straight", "rotated"])
def test_simvq_of_the_peer(name):
    g = golden("vqt_simvq")
    estimator = {"straight": vj.straight_through, "rotated": vj.rotation_trick}[name]
    q = vj.simvq(K, D, init=vj.inits.given(g["frozen"]), estimator=estimator)
    params, state = q.init(KEY)
    same(params["map"], np.eye(D))
    same(codes_of(q, params, state), g["frozen"])
    params = params | {"map": jnp.asarray(g["weight"].T)}
    dparams, dz, out, new = train(q, params, state, g["z"])
    same(out.indices[:, 0], g[f"{name}_indices"])
    close(out.quantized, g[f"{name}_quantized"])
    close(out.loss, g[f"{name}_loss"])
    close(dz, g[f"{name}_dz"])
    close(dparams["map"], g[f"{name}_dweight"].T)
    assert len(jax.tree.leaves(params)) == 1
    same(new["inner"]["codebook"], g["frozen"])


def test_simvq_of_another_width_and_its_scale():
    e = vj.simvq(512, 16).init(KEY)[1]["inner"]["codebook"]
    close(np.var(e), 1 / 16, rtol=0.05)
    q = vj.codebook_vq(
        vj.codebooks.mapped(vj.codebooks.fixed(K, 9, vj.inits.normal()), vj.codebooks.linear(D))
    )
    params, state = q.init(KEY)
    expected = ref.f64(state["inner"]["codebook"]) @ ref.f64(params["map"])
    close(codes_of(q, params, state), expected)
    wide = vj.codebooks.linear(64).init(KEY, 100)
    close(np.var(wide), 1 / 100, rtol=0.1)


def test_mapped_refuses_what_data_moves(as_users):
    for book in (vj.codebooks.ema(K, D), vj.codebooks.gradient(K, D, init=vj.inits.samples())):
        with pytest.raises(ValueError, match="needs a codebook that no data moves, got"):
            vj.codebooks.mapped(book, vj.codebooks.linear(D))
