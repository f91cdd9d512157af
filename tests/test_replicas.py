"""Every kind of parallelism gives what one device gives, on eight simulated devices.

The recipe is in `train_step`: the task loss is averaged over the replicas before the quantizer's
loss, which is global already, is added; then the gradients are averaged.
"""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import vqvae_jax as vj

N, ROWS, D, KEY = 8, 12, 3, jax.random.key(0)
SHARED, DEALT = PartitionSpec(), PartitionSpec("data")
close = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
same = chex.assert_trees_all_equal

REVIVE = vj.codebooks.underused(0.8)
CASES = {
    "vq": vj.vq(10, 4, init=vj.inits.normal()),
    "vq_kmeans_revive": vj.vq(10, 4, beta=3.0, init=vj.inits.kmeans(3), reset=REVIVE),
    "ema_vq": vj.ema_vq(10, 4, decay=0.9, init=vj.inits.normal()),
    "ema_vq_kmeans_revive": vj.ema_vq(10, 4, decay=0.9, init=vj.inits.kmeans(3), reset=REVIVE),
}


def mesh_of(n: int, axis_type=AxisType.Auto):
    return jax.make_mesh((n,), ("data",), (axis_type,), devices=jax.devices()[:n])


def batch():
    """x, whether a row is spoilt, and weights that differ between devices."""
    x = np.random.default_rng(0).standard_normal((N * ROWS, D)).astype(np.float32)
    bad = np.arange(N * ROWS) == 17
    weights = np.repeat([0.0, 1, 2, 1, 0.5, 3, 1, 1], ROWS) * (np.arange(N * ROWS) % 5 > 0)
    return x, bad, weights.astype(np.float32)


def gradients_and_state(q, axis_name, key, encoder, made, x, bad, weights):
    """One training step of a linear encoder and a quantizer; the recipe for every parallelism."""

    def pmean(tree):
        return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

    def loss(encoder, params):
        z = jnp.where(bad[:, None], jnp.nan, x @ encoder)
        options = {"train": True, "key": key, "mask": weights, "axis_name": axis_name}
        out, new = q.apply(params, made[1], z, **options)
        return pmean(jnp.mean(jnp.cos(out.quantized))) + out.loss, (out, new)

    value_and_grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, (out, new)), grads = value_and_grad(encoder, made[0])
    shared = {"loss": value, "metrics": out.metrics, "grads": pmean(grads), "state": new}
    return shared, out.quantized


def train_step(axis_name, key, encoder, made, x, bad, weights):
    """The step of all cases in one compilation: ({name: shared}, {name: quantized})."""
    results = {
        name: gradients_and_state(q, axis_name, key, encoder, made[name], x, bad, weights)
        for name, q in CASES.items()
    }
    return {n: r[0] for n, r in results.items()}, {n: r[1] for n, r in results.items()}


@pytest.fixture(scope="module")
def start():
    """An encoder that is the same on all replicas, and each case's params and state."""
    encoder = jax.random.normal(jax.random.key(1), (D, 4))
    return encoder, jax.jit(lambda key: {n: q.init(key) for n, q in CASES.items()})(KEY)


@pytest.fixture(scope="module")
def one_device(start):
    return jax.device_get(jax.jit(partial(train_step, None))(KEY, *start, *batch()))


def by_replica(tree):
    return jax.tree.map(lambda a: a.reshape(N, -1, *a.shape[1:]), tree)


def check_replicas(results, one_device):
    """Results with a leading axis of replicas equal those of one device; their states, exactly."""
    shared, quantized = jax.device_get(results)
    close(quantized, by_replica(one_device[1]))
    for i in range(N):
        mine = jax.tree.map(lambda a, i=i: a[i], shared)
        close(mine, one_device[0])
        same(
            *(
                {n: jax.tree.map(lambda a, j=j: a[j], shared[n]["state"]) for n in shared}
                for j in (0, i)
            )
        )


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(start, one_device, check_vma):
    """With the check, out_specs also prove that the state is the same on all replicas."""
    specs = (SHARED, SHARED, SHARED, DEALT, DEALT, DEALT)
    step = partial(train_step, "data")
    f = jax.shard_map(
        step, mesh=mesh_of(N), in_specs=specs, out_specs=(SHARED, DEALT), check_vma=check_vma
    )
    shared, quantized = jax.jit(f)(KEY, *start, *batch())
    close((shared, quantized), one_device)
    for leaf in jax.tree.leaves({n: shared[n]["state"] for n in shared}):
        same(*[np.asarray(s.data) for s in leaf.addressable_shards])


def other_keys():
    """Keys that differ between replicas: the first one must decide."""
    return jnp.stack([KEY, *jax.random.split(jax.random.key(9), N - 1)])


@pytest.mark.parametrize("kind", ["pmap", "vmap"])
def test_pmap_and_vmap(start, one_device, kind):
    axes = (0, None, None, 0, 0, 0)
    step = partial(train_step, "data")
    if kind == "pmap":
        f = jax.pmap(step, axis_name="data", in_axes=axes)
    else:
        f = jax.jit(jax.vmap(step, axis_name="data", in_axes=axes))
    check_replicas(f(other_keys(), *start, *by_replica(batch())), one_device)


def test_jit_of_sharded_arrays(start, one_device):
    """Automatic parallelism: the one-device program, no axis name."""
    mesh = mesh_of(N)
    arrays = jax.device_put(batch(), NamedSharding(mesh, DEALT))
    start = jax.device_put(start, NamedSharding(mesh, SHARED))
    close(jax.device_get(jax.jit(partial(train_step, None))(KEY, *start, *arrays)), one_device)


def test_axis_name_of_two_mesh_axes(start, one_device):
    mesh = jax.make_mesh((2, 4), ("host", "chip"), (AxisType.Auto,) * 2)
    axes = ("host", "chip")
    rows = PartitionSpec(axes)
    specs = (SHARED, SHARED, SHARED, rows, rows, rows)
    f = jax.shard_map(
        partial(train_step, axes), mesh=mesh, in_specs=specs, out_specs=(SHARED, rows)
    )
    close(jax.device_get(jax.jit(f)(KEY, *start, *batch())), one_device)


@pytest.mark.parametrize(("check_vma", "factor"), [(True, 8), (False, 1)])
def test_local_means_are_wrong_without_a_word(check_vma, factor):
    """Why the recipe averages the task loss first.

    The usual loop, grad of the local loss and then pmean, is right under pmap; under shard_map with
    its check it is 8 times too large on 8 devices: the gradient to a replicated encoder is summed
    over them by the transpose of its broadcast, and pmean no longer divides.
    """
    x = jnp.asarray(batch()[0])
    encoder = jax.random.normal(jax.random.key(1), (D, 4))

    def local(encoder, x):
        grads = jax.grad(lambda w: jnp.mean(jnp.square(x @ w)))(encoder)
        return jax.lax.pmean(grads, "data")

    f = jax.shard_map(
        local, mesh=mesh_of(N), in_specs=(SHARED, DEALT), out_specs=SHARED, check_vma=check_vma
    )
    right = jax.grad(lambda w: jnp.mean(jnp.square(x @ w)))(encoder)
    close(jax.jit(f)(encoder, x), factor * right)


# Codes that die


def dying(n: int, q, steps: int = 4):
    """The states [n, steps, ...] of n devices while the data move away, and the last rows."""
    z = (
        np.random.default_rng(3).standard_normal((steps, 32, 4))
        + 3 * np.arange(steps)[:, None, None]
    )
    dealt = jnp.asarray(z.reshape(steps, n, -1, 4).swapaxes(0, 1), jnp.float32)
    keys = jnp.stack([KEY, *jax.random.split(KEY, 7)])[:n]

    def run(z, key):
        def step(state, z_and_key):
            z, key = z_and_key
            new = q.apply({}, state, z, train=True, key=key, axis_name="data")[1]
            return new, new

        return jax.lax.scan(step, q.init(KEY)[1], (z, jax.random.split(key, steps)))[1]

    states = jax.pmap(run, axis_name="data", devices=jax.devices()[:n])(dealt, keys)
    return jax.device_get(states), z[-1]


def test_codes_revived_on_1_2_4_8_devices():
    """Bit-equal across replicas, and the same codes are revived by the same rows on any number."""
    q = vj.ema_vq(10, 4, decay=0.5, init=vj.inits.normal(), reset=REVIVE)
    first, rows = dying(1, q)
    revived = np.isclose(first["codebook"][0, -1][:, None], rows, atol=1e-5).all(-1).any(-1)
    assert 1 <= revived.sum() < 10
    for n in (2, 4, 8):
        states, _ = dying(n, q)
        for i in range(n):
            same(*(jax.tree.map(lambda a, j=j: a[j], states) for j in (0, i)))
        close(jax.tree.map(lambda a: a[:1], states), first)


def test_a_code_chosen_in_this_batch_is_never_revived():
    """Even by a rule that calls every code dead."""

    def all_dead(counts):
        return counts > -1

    q = vj.ema_vq(10, 4, decay=0.0, eps=0.0, init=vj.inits.normal(), reset=all_dead)
    z = jnp.concatenate([jnp.zeros((3, 4)), jnp.full((5, 4), 9.0)])
    f = jax.pmap(
        lambda z: q.apply({}, q.init(KEY)[1], z, train=True, key=KEY, axis_name="data"),
        axis_name="data",
    )
    out, state = jax.device_get(f(z[:, None]))
    k, e = out.indices.reshape(-1), state["codebook"][0]
    assert len(set(k)) == 2
    for code in set(k):  # with decay 0 a chosen code is the mean of its rows
        np.testing.assert_allclose(e[code], np.asarray(z)[k == code].mean(0), atol=1e-6)
    others = np.delete(e, list(set(k)), axis=0)  # all others are rows, of both kinds
    assert set(others.sum(-1)) == {0.0, 36.0}


# Arrays that carry their sharding


def test_explicit_mesh_by_auto_axes(one_device, start):
    """On a mesh of jax.make_mesh's default, Explicit axes, gather and cumsum need to be told where
    their results lie; auto_axes leaves that to the compiler, also under grad."""
    mesh = mesh_of(N, AxisType.Explicit)
    everywhere, rows = NamedSharding(mesh, SHARED), NamedSharding(mesh, DEALT)
    x, bad, weights = jax.device_put(batch(), rows)
    encoder, made = jax.device_put(start, everywhere)
    q = CASES["ema_vq_kmeans_revive"]
    params, state = made["ema_vq_kmeans_revive"]

    def loss(encoder):
        z = jnp.where(bad[:, None], jnp.nan, x @ encoder)
        apply = jax.sharding.auto_axes(
            lambda *args: q.apply(*args[:3], mask=args[3], key=KEY, train=True),
            out_sharding=(vj.Output(rows, rows, everywhere, everywhere), everywhere),
        )
        out, new = apply(params, state, z, weights)
        return jnp.mean(jnp.cos(out.quantized)) + out.loss, (out.quantized, new)

    grads, (quantized, new) = jax.jit(jax.grad(loss, has_aux=True))(encoder)
    shared, expected = one_device[0]["ema_vq_kmeans_revive"], one_device[1]["ema_vq_kmeans_revive"]
    assert jax.typeof(quantized).sharding.spec == PartitionSpec("data", None)
    result = jax.device_get((grads, new, quantized))
    close(result, (shared["grads"][0], shared["state"], expected))


def search_in_order(z, e):
    """What `nearest` must not do: blocks of neighbouring rows."""
    blocks = z.reshape(16, -1, z.shape[-1])
    return jax.lax.map(lambda z: vj.nearest(z, e), blocks).reshape(-1)


@pytest.mark.parametrize(("search", "moves"), [(vj.nearest, False), (search_in_order, True)])
def test_search_leaves_sharded_rows_where_they_are(search, moves):
    """Each device finds its own rows in every block and run; all ask whether one is unsure."""
    mesh = mesh_of(N)
    rows, everywhere = NamedSharding(mesh, DEALT), NamedSharding(mesh, SHARED)
    z = jax.ShapeDtypeStruct((16_384, 8), jnp.float32, sharding=rows)
    e = jax.ShapeDtypeStruct((64, 8), jnp.float32, sharding=everywhere)
    text = jax.jit(search).lower(z, e).compile().as_text()
    collectives = r"(\S+) (?:all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\("
    assert (set(re.findall(collectives, text)) - {"pred[]"} != set()) == moves
