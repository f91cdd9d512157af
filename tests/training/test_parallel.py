"""One device or many, by jit, shard_map or pmap: the same gradients, statistics, losses and codes.

Compared from the same state, early and late in a run: whole runs differ once a code flips.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref

from vqvae_jax import MLP, VQVAE, Decoder, Encoder, ema_vq
from vqvae_jax.data.pipeline import batches
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.data.sources import embedded
from vqvae_jax.quantizers import STATE
from vqvae_jax.quantizers.codebooks.inits import normal
from vqvae_jax.training.parallel import (
    data_mesh,
    jit_step,
    pmap_step,
    prefetch,
    replicate,
    shard_map_step,
)
from vqvae_jax.training.step import Batch, init_state, make_train_step

SIZE, DIM, BATCH = 16, 4, 32
WAYS = {"jit": jit_step, "shard_map": shard_map_step, "pmap": pmap_step}
QUANTIZER = ema_vq(SIZE, DIM, decay=0.9, init=normal(0.3))
CONV = VQVAE(
    Encoder(dim=DIM, width=8, downsamplings=1, depth=0),
    QUANTIZER,
    Decoder(dim=DIM, width=8, upsamplings=1, depth=0),
)
ROWS = VQVAE(MLP(DIM, width=8, depth=1), QUANTIZER, MLP(8, width=8, depth=1))  # compiles sooner


def recording(optimizer):
    """The optimizer, its state led by the gradient that it was given."""

    def update(gradient, state, params):
        updates, inner = optimizer.update(gradient, state[1], params)
        return updates, (gradient, inner)

    return optax.GradientTransformation(
        lambda params: (jax.tree.map(jnp.zeros_like, params), optimizer.init(params)), update
    )


ADAM = recording(optax.adam(2e-3))


@functools.cache
def images(model):
    """The first 512 images of the package: 8 x 8 pixels of each, or 8 rows of 8."""
    x = np.asarray(preprocess(embedded()("train")[:512, 2:26:3, 2:26:3]))
    return x if model is CONV else x[..., 0]


@functools.cache
def step(model, way, devices):
    return WAYS[way](make_train_step(model, ADAM), data_mesh(jax.devices()[:devices]))


def feed(model, start=0):
    masks = np.ones(BATCH, np.float32)
    return (Batch(x, masks) for x in batches(images(model), 0, BATCH, start))


def first_state(model):
    """As `init_state`, but the parameters are NumPy's: to compile their draw takes longest."""
    key, rng = jax.random.key(0), np.random.default_rng(0)
    state = jax.eval_shape(functools.partial(init_state, model, ADAM), key, images(model))
    params = jax.tree.map(lambda p: np.float32(0.2 * rng.normal(size=p.shape)), state.params)
    rest = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state._replace(params=None))
    codes = {STATE: {"codes": {"state": QUANTIZER.init(key)[1]}}}
    return rest._replace(params=params, collections=codes)


@functools.cache
def one_device(model):
    """The states at steps 0, 10 and 100 of a run on one device, on the host."""
    run, state, kept = jax.jit(make_train_step(model, ADAM)), first_state(model), {}
    for i, batch in zip(range(101), feed(model), strict=False):
        if i in (0, 10, 100):
            kept[i] = jax.device_get(state)
        state, _ = run(state, batch)
    return run, kept


def distance(tree, other):
    """|x - y| / |y|, of all leaves together."""
    x, y = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(t)]) for t in (tree, other))
    return np.linalg.norm(ref.f64(x) - ref.f64(y)) / np.linalg.norm(ref.f64(y))


def assert_agree(result, expected, tol=1e-5):
    (new, metrics), (new_ref, metrics_ref) = jax.device_get((result, expected))
    assert distance(new.opt_state[0], new_ref.opt_state[0]) < tol  # the gradient
    assert distance(new.collections, new_ref.collections) < tol
    for name, state in new.collections[STATE]["codes"]["state"].items():
        assert distance(state, new_ref.collections[STATE]["codes"]["state"][name]) < tol, name
    assert metrics.keys() == metrics_ref.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value, metrics_ref[name], rtol=tol, atol=1e-7, err_msg=name)
    assert (new.step, new.skipped) == (new_ref.step, new_ref.skipped)


@jax.jit
def reconstruct(variables, x):
    return CONV.apply(variables, x)


def codes(state):
    """(z_e, codebook, codes) of 64 images, as this state of CONV encodes them."""
    rec = reconstruct(state.variables, images(CONV)[:64])
    codebook = state.collections[STATE]["codes"]["state"]["codebook"]
    return np.reshape(rec.z_e, (-1, DIM)), codebook, np.ravel(rec.indices)


CASES = [(CONV, 8), *((ROWS, n) for n in (1, 2, 4))]
each_way = pytest.mark.parametrize("way", WAYS)
each_case = pytest.mark.parametrize(
    "model, devices", CASES, ids=lambda v: v if isinstance(v, int) else type(v.encoder).__name__
)


@each_way
@each_case
def test_a_step_from_the_same_state_agrees_with_one_device(model, devices, way):
    run, states = one_device(model)
    for at, state in states.items():
        batch = next(feed(model, at))
        assert_agree(step(model, way, devices)(state, batch), run(state, batch))


@each_way
def test_ten_steps_agree_with_one_device(way):
    run, states = one_device(CONV)
    ours = theirs = states[0]
    for _, batch in zip(range(10), feed(CONV), strict=False):
        ours, theirs = step(CONV, way, 8)(ours, batch)[0], run(theirs, batch)[0]
    ours, theirs = jax.device_get((ours, theirs))
    assert distance(ours.params, theirs.params) < 1e-5
    z, e, k = codes(theirs)
    clear = ~ref.near_tie(z, e, tol=1e-4)
    assert clear.mean() > 0.9 and len(np.unique(k)) > 2
    np.testing.assert_array_equal(codes(ours)[2][clear], k[clear])


@each_way
def test_devices_may_hold_different_numbers_of_valid_examples(way):
    """One device all of them masked, one all NaN, one with weights that are not 0 or 1."""
    run, states = one_device(CONV)
    x = next(feed(CONV)).x.copy()
    x[4:8] = np.nan
    mask = np.ones(BATCH, np.float32)
    mask[0:4], mask[9], mask[12:16] = 0, 0, (0.5, 0.1, 2, 3)
    batch = Batch(x, mask)
    assert_agree(step(CONV, way, 8)(states[10], batch), run(states[10], batch))


@each_way
def test_a_batch_that_does_not_divide_names_both_numbers(way):
    batch = Batch(images(ROWS)[:12], np.ones(12, np.float32))
    with pytest.raises(ValueError, match="a batch of 12 can't be split over 8 devices"):
        step(ROWS, way, 8)(one_device(ROWS)[1][0], batch)
    empty = Batch(images(ROWS)[:0], np.ones(0, np.float32))
    with pytest.raises(ValueError, match="a batch of 0 can't be split over 8 devices"):
        step(ROWS, way, 8)(one_device(ROWS)[1][0], empty)


@each_way
def test_the_state_stays_replicated_and_is_not_copied_again(way):
    _, states = one_device(ROWS)
    new, metrics = step(ROWS, way, 4)(states[0], next(feed(ROWS)))
    chex.assert_tree_all_finite((new.params, metrics))
    assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(new))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(new))
    if way != "pmap":
        assert replicate(new, data_mesh(jax.devices()[:4])) is new


@each_way
def test_the_memory_of_the_state_is_used_again(way):
    first, _ = step(ROWS, way, 4)(one_device(ROWS)[1][0], next(feed(ROWS)))
    step(ROWS, way, 4)(first, next(feed(ROWS)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))


@each_way
def test_batches_that_were_placed_before_are_not_moved_again(way):
    """The same bits, and no transfer from the host once a step has its batch."""
    compiled, state = step(ROWS, way, 4), one_device(ROWS)[1][10]
    expected = compiled(state, next(feed(ROWS, 10)))
    placed = next(prefetch(feed(ROWS, 10), compiled.place))
    assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(placed))
    state = replicate(state, data_mesh(jax.devices()[:4]))
    with jax.transfer_guard_host_to_device("disallow_explicit"):
        result = compiled.run(state, placed)
    chex.assert_trees_all_equal(*jax.device_get((result, expected)))


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_prefetch_keeps_the_order_and_reads_only_so_far_ahead(ahead):
    read, placed = [], []
    batches = (read.append(i) or i for i in range(9))
    made = prefetch(batches, lambda batch: placed.append(batch) or -batch, ahead)
    assert read == []
    for i in range(9):
        assert next(made) == -i
        assert read == placed == list(range(min(i + ahead, 9)))
    assert list(made) == []
