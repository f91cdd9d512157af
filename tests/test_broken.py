"""Quantizers that break the contract in one way each, and the law that catches each of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient as sg

import vqvae_jax as vj
from vqvae_jax.compiling import fast_compile
from vqvae_jax.testing import laws, trials

VQ = vj.vq(12, 5, init=vj.inits.normal())
EMA = vj.ema_vq(12, 5, decay=0.5, init=vj.inits.normal())
FITTED = vj.ema_vq(12, 5, init=vj.inits.samples())


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


def in_their_own_dtype(params, state, indices):
    """Compares with 256 as an int8 has it, which is 0."""
    k = indices[..., 0]
    known = (k >= 0) & (k < jnp.asarray(256).astype(k.dtype))
    return jnp.where(known[..., None], params["codebook"][jnp.where(known, k, 0)], 0)


def past_the_boundary(q, decode):
    """With a function put in as no factory can: nothing widens its indices."""
    q = broken(q)
    object.__setattr__(q, "decode", decode)
    return q


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


def put_in_twice_as_long(params, state, fn, stream):
    return {"codebook": 2 * fn(params["codebook"])}, state


def put_in_before_a_first_batch(params, state, fn, stream):
    codes = fn(state["codebook"])
    return params, state | {"codebook": codes, "written": codes}  # still to be initialized


@vj.described
def of_dict(codebook) -> vj.inits.Init:
    """A factory with an argument that has no hash."""
    return vj.inits.Init(lambda key, size, dim: jnp.asarray(codebook["e"]))


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
    "integers_not_widened": ("integers", VQ, past_the_boundary(VQ, in_their_own_dtype)),
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
    "codes_put_in_are_others": ("put_in", VQ, broken(VQ, edit=put_in_twice_as_long)),
    "first_batch_replaces_codes": (
        "put_in",
        FITTED,
        broken(FITTED, edit=put_in_before_a_first_batch),
    ),
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
        dataclasses.replace(VQ, call=vj.vq(12, 5, init=vj.inits.normal(2.0)).call),
    ),
}


@pytest.fixture(scope="module")
def good():
    """What a broken quantizer is tried on: its own first step may already fail."""
    return {q: trials.begin_trial(q, compiler_options=fast_compile()) for q in (VQ, EMA, FITTED)}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_quantizer_is_caught_by_its_law(name, good, as_users):
    law, whole, q = BROKEN[name]
    whole = good[whole]
    step = whole.jit(functools.partial(trials.training_step, q))
    look = whole.jit(functools.partial(trials.evaluate, q))
    glance = whole.jit(functools.partial(trials.look_up, q))
    law = getattr(laws, f"law_{law}")
    with pytest.raises(AssertionError), laws.naming(law, q):
        law(whole._replace(q=q, step=step, look=look, glance=glance))


def test_the_error_names_law_and_quantizer(as_users):
    whole = vj.vq(3, 2, init=vj.inits.normal(2.0))
    q = dataclasses.replace(options(VQ, lambda kwargs: kwargs | {"mask": None}), call=whole.call)
    with pytest.raises(AssertionError, match=r"law_masks is broken by vq\(size=3, dim=2"):
        vj.check_quantizer(q)
