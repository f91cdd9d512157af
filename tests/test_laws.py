"""Every quantizer is a row here and keeps every law; broken quantizers are caught by each law.

A new quantizer is added to `ROWS`, with the options that change its state or its codes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient as sg

import vqvae_jax as vj
from vqvae_jax.describe import Function
from vqvae_jax.quantizers import laws, trials


@vj.described
def doubled() -> Function:
    """A user's own estimator: the gradient to the encoder is twice that to the code."""
    return Function(lambda z_e, z_q: sg(z_q) + 2 * (z_e - sg(z_e)))


@vj.described
def orthogonal(scale: float = 1.0) -> vj.Init:
    """A user's own init."""
    return vj.Init(lambda key, size, dim: scale * jax.random.orthogonal(key, size)[:, :dim])


def least_used(counts):
    """A user's own rule for dead codes, a plain function: the least used code, always."""
    return counts == jnp.min(counts)


KM = {"init": vj.kmeans(2), "revive": vj.underused(0.5)}
DROPOUT = vj.quantizer_dropout(0.7, multiple=2)
HELD = [True, False, False, True, False, False]
WARM = vj.from_optax("linear_schedule", 0.5, 2.0, 4)
SGD = vj.from_optax("sgd", 0.1, momentum=0.9)

# K is not D, not always a power of 2 or less than the rows; beta and decay are not the defaults.
ROWS = {
    "vq_uniform": vj.vq(16, 4, beta=3.0),
    "vq_one_code": vj.vq(1, 1),
    "vq_own": vj.vq(6, 3, init=orthogonal(2.0), estimator=doubled()),
    "vq_kmeans_revive": vj.vq(12, 5, **KM),
    "vq_rotation": vj.vq(6, 3, init=vj.normal(), estimator=vj.rotation_trick),
    "vq_synchronized": vj.vq(6, 3, init=vj.normal(), estimator=vj.synchronized(0.3)),
    "vq_given": vj.vq(3, 2, init=vj.given([[0, 1], [2, 3], [-1, -1]])),
    "vq_terms": vj.codebook_vq(
        vj.learnt(6, 3, init=vj.normal()),
        beta=0.0,
        terms=[vj.orthogonal(), vj.diversity(0.1), vj.cross_entropy(0.5)],
    ),
    "ema_uniform": vj.ema_vq(16, 4, decay=0.9),
    "ema_no_memory": vj.ema_vq(6, 3, decay=0.0, eps=0.0, beta=3.0, init=orthogonal(2.0)),
    "ema_zero_debiased": vj.ema_vq(12, 5, init=vj.zero_debiased(vj.normal())),
    "ema_samples": vj.ema_vq(90, 2, decay=0.5, init=vj.samples(), estimator=doubled()),
    "ema_kmeans_revive": vj.ema_vq(12, 5, init=vj.kmeans(2), revive=least_used),
    "ema_held": vj.codebook_vq(vj.held(vj.averaged(6, 3, init=vj.normal()), HELD)),
    "vq_held": vj.codebook_vq(
        vj.held(vj.learnt(6, 3, init=vj.normal()), HELD), terms=[vj.orthogonal_active()]
    ),
    "stochastic": vj.stochastic_vq(6, 3, temperature=0.5, init=vj.normal()),
    "stochastic_top": vj.codebook_vq(vj.averaged(12, 5, **KM), assign=vj.sampled(2.0, top=3)),
    "sinkhorn": vj.sinkhorn_vq(6, 3, epsilon=0.2, iterations=3),
    "cosine": vj.cosine_vq(6, 3, beta=3.0),
    "cosine_ema": vj.cosine_ema_vq(6, 3, 0.9, **KM),
    "affine": vj.affine_vq(6, 3, rate=2.0, **KM),
    "matched": vj.codebook_vq(vj.matched(vj.averaged(6, 3, 0.9, **KM), 0.9)),
    "simvq": vj.simvq(6, 3, beta=3.0),
    "simvq_wide": vj.codebook_vq(vj.mapped(vj.fixed(6, 2, vj.normal()), vj.linear(3))),
    "gumbel": vj.gumbel_vq(6, 3, temperature=0.5, kl=0.1),
    "gumbel_soft": vj.gumbel_vq(6, 3, relax=vj.soft),
    "diveq": vj.diveq(6, 3, sigma=0.3, **KM),
    "nsvq": vj.nsvq(6, 3),
    "sqvae": vj.sqvae(6, 3, weight=2.0),
    "grid": vj.grid([3, 2, 5]),
    "fsq": vj.fsq([8, 6, 5]),
    "fsq_arctanh": vj.fsq([8, 5], bound=vj.arctanh_bound),
    "fsq_noise": vj.fsq([4, 3, 2], bound=vj.symmetric_bound, rounded=0.5),
    "fsp": vj.fsp([4, 5], vj.normal_cdf, rounded=0.3),
    "latent": vj.latent_vq([3, 4, 2], alpha=0.5, beta=2.0),
    "lfq": vj.lfq(4, entropy=0.3, diversity=0.5, group=2, temperature=1.0, beta=0.7),
    "bsq": vj.bsq(6, group=3, diversity=2.0, beta=0.5),
    "residual": vj.residual(vj.vq(12, 5, init=vj.normal()), vj.ema_vq(6, 5, 0.9, beta=3.0, **KM)),
    "residual_dropout": vj.residual(
        vj.vq(12, 5, beta=3.0),
        vj.fsq([3] * 5),
        dropout=vj.quantizer_dropout(0.7),
        estimator=vj.rotation_trick,
    ),
    "residual_own_gradients": vj.residual(vj.diveq(6, 3), vj.gumbel_vq(6, 3), estimator=None),
    "repeat": vj.repeat(vj.ema_vq(12, 5, 0.5, **KM), 3),
    "repeat_dropout": vj.repeat(vj.ema_vq(12, 5, 0.5), 4, dropout=DROPOUT),
    "shared": vj.shared(vj.ema_vq(12, 5, 0.5, **KM), 3),
    "shared_dropout": vj.shared(vj.vq(12, 5, init=vj.normal()), 4, dropout=DROPOUT),
    "grouped": vj.grouped(vj.vq(6, 2, **KM), vj.fsq([3, 5]), vj.ema_vq(4, 1, 0.9)),
    "heads": vj.heads(vj.ema_vq(12, 2, 0.9, **KM), 3),
    "project": vj.project(vj.vq(6, 2, init=vj.normal()), 5),
    "normalize": vj.normalize(vj.vq(6, 3, init=vj.normal()), vj.unit),
    "scale": vj.scale(vj.grid([3, 2]), 2.5),
    "rotate": vj.rotate(vj.lfq(3, temperature=1.0)),
    "scheduled": vj.scheduled(vj.ema_vq(6, 3, init=vj.normal()), beta=WARM),
    "alternated": vj.alternated(vj.vq(6, 3, init=vj.normal()), SGD),
    "frozen": vj.frozen(vj.ema_vq(6, 3)),
    "frozen_after": vj.frozen_after(vj.vq(6, 3, init=vj.normal()), 2),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*codes of the first batch repeat")


@pytest.fixture(scope="module", params=ROWS)
def trial(request):
    return trials.begin_trial(ROWS[request.param], compiler_options=trials.FAST_COMPILE)


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_law(trial, law):
    law(trial)


def test_each_of_the_params_gets_a_gradient(trial):
    params, _ = trial.step(trial.params, trial.state, trial.z, trial.key)["grads"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert jnp.any(leaf != 0), f"params{jax.tree_util.keystr(path)}"


def test_rows_of_the_user_are_dealt_to_replicas():
    z = jnp.arange(1.0, 1 + 3 * 5 * 2).reshape(3, 5, 2)
    trial = trials.begin_trial(vj.vq(5, 2), key=jax.random.key(7), z=z)
    np.testing.assert_array_equal(trial.z[:15], z.reshape(15, 2))
    assert trial.z.shape == (16, 2) and trial.spoilt.shape == (4, 5, 2)


def test_rows_of_another_width_are_refused(as_users):
    with pytest.raises(ValueError, match="z must be"):
        vj.check_quantizer(vj.vq(5, 2), z=jnp.ones((4, 3)))


# What follows breaks a good quantizer in one way each.

VQ = vj.vq(12, 5, init=vj.normal())
EMA = vj.ema_vq(12, 5, decay=0.5, init=vj.normal())


def broken(q, **changes):
    """Without its call: it is no longer what its factory made."""
    return dataclasses.replace(q, call=None, **changes)


def outputs(q, change):
    """`change(out, z)` instead of each Output."""

    def apply(params, state, z, **options):
        out, new = q.apply(params, state, z, **options)
        return change(out, z), new

    return broken(q, apply=apply)


def states(q, change):
    """`change(new, old)` instead of each new state of training."""

    def apply(params, state, z, train=False, **options):
        out, new = q.apply(params, state, z, train=train, **options)
        return out, change(new, state) if train else new

    return broken(q, apply=apply)


def options(q, change, of_state=False):
    """Other options for apply, or only for what moves the state."""

    def apply(params, state, z, **kwargs):
        out, new = q.apply(params, state, z, **change(kwargs))
        return (q.apply(params, state, z, **kwargs)[0], new) if of_state else (out, new)

    return broken(q, apply=apply)


def inputs(q, change):
    """`change(z, options)` instead of z."""

    def apply(params, state, z, **kwargs):
        return q.apply(params, state, change(z, kwargs), **kwargs)

    return broken(q, apply=apply)


def without(name):
    return lambda kwargs: {k: v for k, v in kwargs.items() if k != name}


def noise(z, kwargs):
    key = kwargs.get("key")
    return z if key is None else z + jax.random.normal(key, z.shape).astype(z.dtype)


def add(values: dict, name: str, value) -> dict:
    return values | {name: value}


def last_code_for_unknown(params, state, indices):
    return params["codebook"][indices[..., 0]]


def decode_zeros(params, state, indices):
    return jnp.zeros((*indices.shape[:-1], 5))


def one_ulp(out, z):
    """z + sg(z_q - z), the usual form of the straight-through estimator, is not z_q."""
    z = jnp.where(jnp.isfinite(z), z, 0)
    return out._replace(quantized=z + sg(out.quantized - z))


def with_gradient(out, z):
    return out._replace(metrics=add(out.metrics, "norm", jnp.float32(jnp.nanmean(z * z))))


def mean_without_guard(out, z):
    valid = jnp.any(out.quantized != 0, axis=-1)
    total = jnp.sum(jnp.where(valid, 1.0, 0.0))
    return out._replace(losses=add(out.losses, "ratio", total / total))


def leaky(out, z):
    return out._replace(quantized=out.quantized + 0 * z)


def zeroth(out, z):
    """Row 0 of each array gets code 0, so that codes depend on the layout."""
    first = jnp.arange(z.shape[0]).reshape(-1, *[1] * (z.ndim - 1)) == 0
    moved = jnp.where(first, out.quantized + 1, out.quantized)
    return out._replace(quantized=moved.astype(z.dtype))


def update_without_rows(new, old):
    return new | {"counts": new["counts"] * 0.5}


def in_place(q):
    """Decodes with the codebook after the update, as mutable implementations do."""

    def apply(params, state, z, **kwargs):
        out, new = q.apply(params, state, z, **kwargs)
        return out._replace(quantized=q.decode(params, new, out.indices).astype(z.dtype)), new

    return broken(q, apply=apply)


def infinite_gradient(out, z):
    z = jnp.where(jnp.isfinite(z), z, 0)
    root = jnp.mean(jnp.sqrt(jnp.abs(z - sg(z))))  # value 0
    return out._replace(losses=add(out.losses, "root", root.astype(jnp.float32)))


@vj.described
def of_dict(codebook) -> vj.Init:
    """A factory with an argument that has no hash."""
    return vj.Init(lambda key, size, dim: jnp.asarray(codebook["e"]))


BROKEN = {
    "init_is_no_dict": ("init", VQ, broken(VQ, init=lambda key: (VQ.init(key)[0]["codebook"], {}))),
    "state_grows": ("init", EMA, states(EMA, lambda new, _: new | {"steps": jnp.zeros(())})),
    "state_becomes_half": (
        "init",
        EMA,
        states(EMA, lambda new, _: new | {"counts": new["counts"].astype(jnp.float16)}),
    ),
    "state_becomes_weak": (
        "init",
        EMA,
        states(EMA, lambda new, _: new | {"counts": jnp.broadcast_to(jnp.asarray(1.0), (12,))}),
    ),
    "eval_moves_state": ("eval", EMA, options(EMA, lambda kwargs: kwargs | {"train": True})),
    "eval_needs_key": ("eval", VQ, options(VQ, lambda kwargs: {"key": kwargs["key"]} | kwargs)),
    "metric_with_gradient": ("eval", VQ, outputs(VQ, with_gradient)),
    "index_beyond_codebook": (
        "eval",
        VQ,
        outputs(VQ, lambda out, z: out._replace(indices=out.indices + 12)),
    ),
    "no_stream_axis": (
        "types",
        VQ,
        outputs(VQ, lambda out, z: out._replace(indices=out.indices[..., 0])),
    ),
    "always_float32": (
        "types",
        VQ,
        outputs(VQ, lambda out, z: out._replace(quantized=out.quantized.astype(jnp.float32))),
    ),
    "loss_has_an_axis": (
        "types",
        VQ,
        outputs(VQ, lambda out, z: out._replace(losses={"a": jnp.zeros((1,))})),
    ),
    "decode_returns_zeros": ("decode", VQ, broken(VQ, decode=decode_zeros)),
    "unknown_is_last_code": ("decode", VQ, broken(VQ, decode=last_code_for_unknown)),
    "value_not_exact": ("decode", VQ, outputs(VQ, one_ulp)),
    "codebook_after_update": ("decode", EMA, in_place(EMA)),
    "mask_ignored": ("masks", VQ, options(VQ, without("mask"))),
    "mask_ignored_in_averages": ("masks", EMA, options(EMA, without("mask"), of_state=True)),
    "nan_leaks": ("masks", VQ, outputs(VQ, leaky)),
    "averages_decay_without_rows": ("no_rows", EMA, states(EMA, update_without_rows)),
    "mean_of_nothing": ("no_rows", VQ, outputs(VQ, mean_without_guard)),
    "local_means": ("replicas", VQ, options(VQ, without("axis_name"))),
    "local_averages": ("replicas", EMA, options(EMA, without("axis_name"), of_state=True)),
    "codes_depend_on_key": ("codes", VQ, inputs(VQ, noise)),
    "codes_depend_on_layout": ("codes", VQ, outputs(VQ, zeroth)),
    "no_gradient_to_z": (
        "gradients",
        VQ,
        outputs(VQ, lambda out, z: out._replace(quantized=sg(out.quantized), losses={})),
    ),
    "gradient_is_infinite": ("gradients", VQ, outputs(VQ, infinite_gradient)),
    "any_keyword": (
        "description",
        VQ,
        options(VQ, without("misspelt")),
    ),
    "argument_without_hash": ("description", VQ, vj.vq(12, 5, init=of_dict({"e": np.eye(12, 5)}))),
    "call_of_another": (
        "description",
        VQ,
        dataclasses.replace(VQ, call=vj.vq(12, 5, init=vj.normal(2.0)).call),
    ),
}


@pytest.fixture(scope="module")
def good():
    """What a broken quantizer is tried on: its own first step may already fail."""
    return {q: trials.begin_trial(q, compiler_options=trials.FAST_COMPILE) for q in (VQ, EMA)}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_quantizer_is_caught_by_its_law(name, good, as_users):
    law, whole, q = BROKEN[name]
    whole = good[whole]
    step = whole.jit(functools.partial(trials.training_step, q))
    look = whole.jit(functools.partial(trials.evaluate, q))
    law = getattr(laws, f"law_{law}")
    with pytest.raises(AssertionError), laws.naming(law, q):
        law(whole._replace(q=q, step=step, look=look))


def test_the_error_names_law_and_quantizer(as_users):
    whole = vj.vq(3, 2, init=vj.normal(2.0))
    q = dataclasses.replace(options(VQ, lambda kwargs: kwargs | {"mask": None}), call=whole.call)
    with pytest.raises(AssertionError, match=r"law_masks is broken by vq\(size=3, dim=2"):
        vj.check_quantizer(q)
