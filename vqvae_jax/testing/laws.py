"""Tests of the contract of `Quantizer`: one function for each law, and `check_quantizer`.

1. Gradients move params, data moves state; both are dicts whose shapes and dtypes training keeps.
2. Losses and metrics are means over the valid rows of all replicas; the gradient is that of
   `pmean(task_loss) + out.loss`, then `pmean`. The states of all replicas are equal bit by bit.
3. A row is valid if it is finite and its mask is > 0. Invalid rows change nothing and get index -1
   and the vector 0. A batch without valid rows has loss 0 and keeps the state. A mask of ones
   equals no mask.
4. `decode(indices)` is `quantized`, exactly if both are compiled together, in eval mode and (with
   the state before the step) in training; -1 decodes to 0. Indices may have any integer dtype that
   holds them. Eval mode needs no key and returns its state.
   The codes of a row depend on the row and the state, not on key, layout or jit.
   A quantizer whose record says `stochastic` must keep this law in eval mode only; in training it
   may depend on the key, and `quantized` may differ from the code.
5. The arithmetic is float32, whatever the dtype of z; `quantized` has the dtype of z.
6. Gradient estimators are exact in value. The task's gradient reaches z, and all gradients are
   finite.
7. Equality, hash, pickle and JSON come from the factory call that made the quantizer.
8. `apply` counts no codes, which is left to `code_counts` (a matter of cost, not tested).
9. Codes set by `set_codes` are the codes that their stream alone decodes to, and training continues
   from them, even on the first batch. Computed codes can't be set.
"""

import contextlib
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vqvae_jax.checks import check_rows
from vqvae_jax.compiling import check_compiler_options
from vqvae_jax.conversions import under_defaults
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.quantizers.codebooks.editing import NoCodes
from vqvae_jax.saving.as_json import from_json, to_json
from vqvae_jax.saving.describe import remake
from vqvae_jax.testing.trials import (
    REPLICAS,
    Trial,
    begin_trial,
    choose_inputs,
    look_up,
    reverse_codes,
    reverse_in_turn,
    training_step,
)

# From int32 to the narrowest: the last one that holds K - 1 has no room to spare.
INTEGERS = (np.int32, np.uint32, np.uint16, np.int16, np.uint8, np.int8)

same = chex.assert_trees_all_equal
require = np.testing.assert_  # unlike `assert`, kept by python -O
close = partial(chex.assert_trees_all_close, rtol=2e-5, atol=2e-6)


@under_defaults  # the trial's own arithmetic
def check_quantizer(
    q: Quantizer,
    *,
    key: PRNGKeyArray | None = None,
    z: Float[Array, "*rows D"] | None = None,
    compiler_options: dict[str, Any] | None = None,
) -> None:
    """Checks that a quantizer of any kind or nesting keeps the contract.

    Args:
        q: the quantizer.
        key: key for init and training; `jax.random.key(0)` if None, with the generator "rbg" for a
            stochastic quantizer, whose noise then compiles fast.
        z: rows `[..., q.dim]` typical for q; 64 rows from N(0, 1) if None.
        compiler_options: options of `jax.jit`. Nearly all time is spent on compilation, of which
            `fast_compile()` takes a third on a CPU, by optimising less.

    Raises:
        AssertionError: if a law is broken; the error names the law and the quantizer.
        TypeError, ValueError: for invalid arguments.
        JaxRuntimeError, MemoryError, OSError: errors of the compiler, the device or the machine,
            unchanged, since they say nothing about the quantizer.

    Example:
        >>> import vqvae_jax as vj
        >>> check_quantizer(vj.vq(size=8, dim=3, init=vj.inits.normal()))
    """
    check_compiler_options(compiler_options)
    if z is not None:
        check_rows(z, q.dim)
    key, z = choose_inputs(q, key, z)
    with naming(law_init, q):
        trial = begin_trial(q, key, z, compiler_options)
    for law in LAWS:
        with naming(law, q):
            law(trial)


def law_init(t: Trial) -> None:
    """params and state are dicts whose shapes need no computation, and survive a training step."""
    params, state = shapes = jax.eval_shape(t.q.init, t.key)
    require(isinstance(params, dict) and isinstance(state, dict), "init must return two dicts")
    require(specs(shapes) == specs((t.params, t.start)), "init differs under eval_shape")
    z = jax.ShapeDtypeStruct(t.z.shape, jnp.bfloat16)
    new = jax.eval_shape(partial(t.q.apply, train=True), params, state, z, key=t.key)[1]
    for after in (t.state, new):
        require(specs(after) == specs(state), f"init's {specs(state)} became {specs(after)}")


def law_eval(t: Trial) -> None:
    """Eval mode needs no key and keeps its state; metrics are constants to the gradient."""
    out = t.look(t.params, t.state, t.z)
    same(out["state"], t.state)
    indices = np.asarray(out["indices"])
    inside = (indices >= -1) & (indices < np.array(t.q.vocab))
    require(inside.all(), f"indices are not in -1..K-1 for vocab {t.q.vocab}")
    same(out["grads"], jax.tree.map(np.zeros_like, out["grads"]))


def law_types(t: Trial) -> None:
    """quantized has shape and dtype of z, indices are int32 [..., Q], all else scalar float32."""
    wide = [(True, jnp.float64)] if jax.config.read("jax_enable_x64") else []
    for train, dtype in ((False, jnp.float32), (False, jnp.bfloat16), (True, jnp.bfloat16), *wide):
        apply = partial(t.q.apply, t.params, t.state, train=train, key=t.key if train else None)
        out = jax.eval_shape(apply, jax.ShapeDtypeStruct(t.z.shape, dtype))[0]
        scalars = [*out.losses.values(), *out.metrics.values()]
        chex.assert_shape(out[:2], [t.z.shape, (*t.z.shape[:-1], len(t.q.vocab))])
        chex.assert_type(out[:2], [dtype, jnp.int32])
        chex.assert_shape(scalars, ())
        chex.assert_type(scalars, jnp.float32)


def law_decode(t: Trial) -> None:
    """decode(indices) is quantized, exactly in eval mode; -1 decodes to 0."""
    for look, z in ((t.look, t.z), (t.glance, t.z.astype(jnp.bfloat16))):
        out = look(t.params, t.state, z)
        same(out["decoded"], out["quantized"])
    if not t.q.stochastic:  # XLA may compile codes with a gradient to another last bit
        out = t.step(t.params, t.state, t.z, t.key)
        close(out["decoded"], out["quantized"], rtol=1e-6, atol=1e-6)
    nothing = t.jit(t.q.decode)(t.params, t.state, jnp.full((3, len(t.q.vocab)), -1, jnp.int32))
    same(nothing, np.zeros((3, t.q.dim), np.float32))


def law_masks(t: Trial) -> None:
    """Invalid rows, and a mask of ones on the others, change nothing."""
    # Before the first batch as well: initialisation must not use invalid rows either.
    for state in (t.start, t.state):
        mixed = t.step(t.params, state, t.spoilt, t.key, t.mask)
        if t.q.stochastic:  # other rows would draw other noise: change what is in the invalid ones
            other = t.step(t.params, state, t.spoilt.at[:, 0].multiply(-3), t.key, t.mask)
            kept = other["quantized"][:, 1:].reshape(t.z.shape)
        else:
            other = t.step(t.params, state, t.z, t.key)
            kept = other["quantized"]
        close(*({n: r[n] for n in ("losses", "state", "grads")} for r in (mixed, other)))
        close(mixed["quantized"][:, 1:].reshape(t.z.shape), kept)
        require((mixed["quantized"][:, 0] == 0).all(), "an invalid row must be quantized to 0")
        require((mixed["indices"][:, 0] == -1).all(), "an invalid row must have index -1")


def law_gradients(t: Trial) -> None:
    """The task's gradient reaches z; all gradients are finite."""
    params, shift = t.step(t.params, t.state, t.z, t.key)["grads"]
    chex.assert_tree_all_finite((params, shift))
    require(jnp.any(shift != 0), "no gradient reaches z")


def law_no_rows(t: Trial) -> None:
    """A batch without a valid row has loss 0 and finite gradients, and leaves the state alone."""
    nan = jnp.full_like(t.spoilt, jnp.nan)
    # Masked out, not finite, and no row at all.
    for z, mask in ((t.spoilt, 0 * t.mask), (nan, t.mask), (t.z[:0], None)):
        for state in (t.start, t.state):
            out = t.step(t.params, state, z, t.key, mask)
            same(out["state"], state)
            chex.assert_tree_all_finite(out)
            require(not any(map(float, out["losses"].values())), f"losses: {out['losses']}")


def by_vmap(jit: Callable, step: Callable) -> Callable:
    """Maps a step over replicas by vmap; `state, z, key, mask` have that axis, params do not."""
    return jit(jax.vmap(step, (None, 0, 0, 0, 0), axis_name="r"))


def law_replicas(t: Trial, parallel: Callable = by_vmap) -> None:
    """Replicas with unequal shares of the rows give the results of one device with all rows."""
    # Unequal weights, and a first replica without any: means of the replicas' means would be wrong.
    mask = np.asarray(t.mask) * np.arange(REPLICAS)[:, None] * (np.arange(t.mask.shape[1]) % 3)
    keys = jnp.stack([t.key, *jax.random.split(t.key, REPLICAS - 1)])  # only the first one counts
    replicas = parallel(t.jit, partial(training_step, t.q, axis_name="r"))
    for state in (t.start, t.state):
        copies = jax.tree.map(lambda a: np.stack([a] * REPLICAS), state)
        many = jax.device_get(replicas(t.params, copies, t.spoilt, keys, mask))
        one = jax.tree.map(lambda a: a[0], many)
        if not t.q.stochastic:  # else each replica draws noise of its own
            one = t.step(t.params, state, t.spoilt, t.key, mask)
            close(many["quantized"], one["quantized"])
        for i in range(REPLICAS):
            close(jax.tree.map(lambda a, i=i: a[i], shared(many)), shared(one))
            same(*(jax.tree.map(lambda a, j=j: a[j], many["state"]) for j in (0, i)))


def shared(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a step's result that all replicas share."""
    return {name: result[name] for name in ("losses", "metrics", "state", "grads")}


def law_codes(t: Trial) -> None:
    """The codes of a row depend on nothing but the row and the state."""
    args, z = (t.params, t.state), t.z
    rows = z.reshape(REPLICAS, -1, t.q.dim)
    looks = [
        t.look(*args, z),
        t.jit(jax.vmap(partial(look_up, t.q, *args)))(rows),  # another layout as well
        t.q.apply(*args, z, key=t.key)[0]._asdict(),  # without jit
    ]
    steps = [t.step(*args, z, key) for key in jax.random.split(t.key)]
    for outs in (looks, [] if t.q.stochastic else steps):
        # Rounding may decide between codes that are equally near: compare errors, not indices.
        errors = [jnp.square(z - out["quantized"].reshape(z.shape)).sum(-1) for out in outs]
        for error in errors[1:]:
            close(error, errors[0])


def law_description(t: Trial) -> None:
    """The factory call determines the quantizer, and a misspelt keyword raises."""
    require(jax.tree.leaves({"q": t.q}) == [t.q], "a quantizer must be one leaf of a pytree")
    again = [] if t.q.call is None else [remake(*t.q.call)]
    with contextlib.suppress(ValueError):  # raised where a function in it has no public name
        again += [from_json(to_json(t.q)), pickle.loads(pickle.dumps(t.q))]
    for other in again:
        require(other == t.q and hash(other) == hash(t.q), f"the same call made {other!r}")
    for other in again[-1:]:
        same(t.jit(other.init)(t.key), (t.params, t.start))
    with contextlib.suppress(TypeError):
        t.q.apply(t.params, t.state, t.z, misspelt=True)
        require(False, "apply must raise a TypeError for an unknown keyword")


def law_integers(t: Trial) -> None:
    """Indices of every integer dtype that holds K - 1 decode alike, jitted or not."""
    last = np.array(t.q.vocab) - 1
    codes = np.stack([last, last // 2, 0 * last, -np.ones_like(last)])
    dtypes = [d for d in INTEGERS if last.max() <= np.iinfo(d).max]
    given = [codes[: 4 if np.iinfo(d).min < 0 else 3].astype(d) for d in dtypes]  # -1 needs a sign
    decode = t.jit(lambda params, state, given: [t.q.decode(params, state, k) for k in given])
    expected, *found = decode(t.params, t.state, given)
    for vectors in found:
        close(vectors, expected[: len(vectors)])
    close(t.q.decode(t.params, t.state, given[-1]), expected[: len(given[-1])])


def law_put_in(t: Trial) -> None:
    """Codes that are set are decoded, alone of their stream, and training starts from them."""
    editable = []
    for stream in range(len(t.q.vocab)):
        with contextlib.suppress(NoCodes):
            jax.eval_shape(partial(reverse_codes, t.q, stream), t.params, t.start)
            editable.append(stream)
    if not editable:
        return
    looks, new = t.jit(partial(reverse_in_turn, t.q, editable))(t.params, t.start)
    require(specs(new) == specs((t.params, t.start)), "codes put in change shapes or dtypes")
    for stream, (before, after, e) in zip(editable, looks, strict=True):
        close(after[stream], before[stream][::-1])
        if e.shape[-1] == t.q.dim:
            close(e, before[stream])
        for i, (old, now) in enumerate(zip(before, after, strict=True)):
            kept = np.array_equal(old, now) or np.allclose(old[::-1], now, 2e-5, 2e-6)  # shared
            require(kept, f"stream {i} changes with stream {stream}")
    out = t.step(*new, t.z, t.key)
    if not t.q.stochastic:
        close(out["decoded"], out["quantized"], rtol=1e-6, atol=1e-6)


VALUES = (law_eval, law_types, law_decode, law_integers, law_masks, law_no_rows, law_gradients)
LAWS = (law_init, *VALUES, law_codes, law_put_in, law_replicas, law_description)


@contextlib.contextmanager
def naming(law: Callable, q: Quantizer):
    """Context manager that turns errors into AssertionErrors naming the law and the quantizer.

    Errors of a compiler, a device or the machine pass unchanged: they would blame a sound
    quantizer.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError, OSError) as error:
        error.add_note(f"while {law.__name__} of {q!r} was tried")
        raise
    except Exception as error:
        raise AssertionError(f"{law.__name__} is broken by {q!r}: {error}") from error


def specs(tree) -> Any:
    """Returns structure, shapes, dtypes and weak types as text."""
    shapes = jax.eval_shape(lambda tree: tree, tree)
    return jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}{' weak' * a.weak_type}", shapes)
