"""What a factory made is equal, hashed, shown, pickled and stored as the call that made it."""

import copy
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax import described, ema_vq, from_json, straight_through, to_json, vq
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.quantizers.codebooks.inits import kmeans, normal, uniform, zero_debiased
from vqvae_jax.saving.describe import Function

MADE = [
    vq(8, 4),
    vq(8, 4, beta=3.0, init=kmeans(2), reset=underused(0.2), estimator=straight_through),
    ema_vq(16, 2, 0.9, eps=1e-4, init=zero_debiased(normal(0.5))),
    uniform(0.1),
    underused(),
]
EACH = pytest.mark.parametrize("made", MADE, ids=repr)


def double(z_e, z_q):
    """A user's own estimator."""
    return 2 * straight_through(z_e, z_q)


@described
def halved(size, *more, init=uniform(), **others):  # noqa: B008
    """A user's own factory, with every kind of argument."""
    return vq(size // 2, 3, init=init)


def test_equal_calls_make_equal_records():
    assert vq(8, 4) == vq(size=8, dim=4) == vq(8, 4, beta=0.25, init=uniform())
    assert len({vq(8, 4), vq(size=8, dim=4), vq(8, 4, init=uniform(None))}) == 1
    assert len(set(MADE) | {vq(8, 5), vq(4, 8), vq(8, 4, beta=1.0), ema_vq(8, 4)}) == len(MADE) + 4
    assert vq(8, 4) != "vq(8, 4)" and vq(8, 4) != ema_vq(8, 4) and underused(0.1) == underused()


def test_repr_is_a_call_that_makes_the_record_again():
    expected = (
        "vq(size=8, dim=4, beta=0.25, init=uniform(scale=None), reset=None, "
        "estimator=straight_through)"
    )
    assert repr(vq(8, 4)) == expected
    for made in MADE:
        assert eval(repr(made)) == made


@EACH
def test_copies_are_equal(made):
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), from_json(to_json(made))):
        assert again == made and hash(again) == hash(made) and repr(again) == repr(made)


@EACH
def test_json_is_plain_and_stable(made):
    text = to_json(made)
    assert to_json(from_json(text)) == text and to_json(from_json(to_json(made, indent=2))) == text
    assert json.loads(text)["call"] == repr(made).split("(")[0]


def test_what_is_built_again_computes_the_same():
    q = vq(8, 4, beta=3.0, init=normal(), reset=underused(0.2))
    z = jnp.asarray(np.random.default_rng(0).normal(size=(20, 4)), jnp.float32)
    for again in (from_json(to_json(q)), pickle.loads(pickle.dumps(q))):
        ours, theirs = (q.init(jax.random.key(1)) for q in (q, again))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        out, expected = (q.apply(*ours, z)[0] for q in (again, q))
        jax.tree.map(np.testing.assert_array_equal, out, expected)


def test_equal_static_arguments_do_not_compile_again():
    traced = []

    def loss(z, q):
        traced.append(q)
        return q.apply(*q.init(jax.random.key(0)), z)[0].loss

    jitted = jax.jit(loss, static_argnames="q")
    z = jnp.ones((3, 4))
    for q in (vq(8, 4), vq(size=8, dim=4), from_json(to_json(vq(8, 4)))):
        jitted(z, q)
    assert len(traced) == 1
    jitted(z, vq(8, 4, beta=3.0))
    assert len(traced) == 2


def test_a_lambda_works_but_has_no_description():
    q = vq(2, 1, estimator=lambda z_e, z_q: z_q)
    assert q.apply(*q.init(jax.random.key(0)), jnp.ones((3, 1)))[0].quantized.shape == (3, 1)
    assert q == q and "<lambda>" in repr(q)
    with pytest.raises(ValueError, match=r"JSON can't describe .*lambda.* names="):
        to_json(q)


def test_a_record_without_a_call_is_equal_to_itself_alone():
    one, other = Function(len), Function(len)
    assert one == one and one != other and len({one, other}) == 2 and one([1, 2]) == 2
    assert repr(one) == "<Function>"
    with pytest.raises(TypeError, match="not made by a public factory and can't be pickled"):
        pickle.dumps(one)
    with pytest.raises(ValueError, match="JSON can't describe"):
        to_json(one)


def test_a_users_own_functions_and_factories_are_named():
    names = {"double": double, "mine": halved}
    q = vq(8, 4, estimator=double)
    assert from_json(to_json(q, names), names) == q
    made = halved(8, 1, 2.5, init=normal(2.0), note="x", many=[1, [2]])
    text = to_json(made, names)
    assert from_json(text, names) == made and made.vocab == (4,)
    assert json.loads(text)["call"] == "mine"
    for description in (to_json(q, names), text):
        with pytest.raises(
            ValueError, match=r"is no public name of vqvae_jax for descriptions, nor in names"
        ):
            from_json(description)
    for unknown in (q, made):
        with pytest.raises(ValueError, match=r"JSON can't describe .*names="):
            to_json(unknown)


def test_lists_and_tuples_of_records():
    made = (vq(8, 4), [kmeans(2), None, "x", 1.5, True])
    assert from_json(to_json(made)) == (vq(8, 4), (kmeans(2), None, "x", 1.5, True))


@pytest.mark.parametrize(
    "name",
    ["os.system", "os", "jax", "eval", "__builtins__", "__import__", "_private", "search",
     "quantizers", "vqvae_jax.vq", "vq.__globals__", "", "VQ"],
)  # fmt: skip
def test_a_description_calls_public_functions_only(name):
    for data in ({"call": name, "kwargs": {}}, {"name": name}, [{"call": name, "kwargs": {}}]):
        with pytest.raises(ValueError, match=r"is no public name of vqvae_jax"):
            from_json(json.dumps(data))


def test_a_factory_of_the_description_runs_no_code_of_the_text():
    """Even with the user's names no attribute can be reached, and no module."""
    text = '{"call": "np.load", "kwargs": {}}'
    for names in ({}, {"np": np}, {"np.load": np}):
        with pytest.raises(ValueError, match=r"is no public name of vqvae_jax"):
            from_json(text, names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON description"),
        ('{"call": "vq"', "not a JSON description"),
        ("[" * 100_000, "not a JSON description"),
        ('{"call": "vq"}', r"keys call and kwargs, got \['call'\]"),
        ('{"call": "vq", "kwargs": {}, "extra": 1}', "keys call and kwargs, got .*'extra'"),
        ("{}", r"keys call and kwargs, got \[\]"),
        ('{"call": "vq", "kwargs": {"size": 8}}', "vq can't be called as described"),
        ('{"call": "vq", "kwargs": {"size": 8, "dim": 4, "no": 1}}', "vq can't be called"),
        ('{"call": "vq", "kwargs": {"size": 8, "dim": 4, "init": 3}}', "vq can't be called"),
        ('{"call": "vq", "args": 5, "kwargs": {}}', "args and kwargs of vq must be"),
        ('{"call": "vq", "kwargs": [8, 4]}', "kwargs"),
        ('{"call": "vq", "kwargs": null}', "kwargs"),
        ('{"call": 3, "kwargs": {}}', "is no public name"),
        ('{"call": {}, "kwargs": {}}', "is no public name"),
        ('{"name": ["vq"]}', "is no public name"),
        ('{"call": "vq", "kwargs": {"size": -1, "dim": 4}}', "size must be an integer >= 1"),
        ('{"call": "vq", "kwargs": {"size": 8, "dim": 4, "beta": NaN}}', "beta must be in"),
        ('{"call": "underused", "kwargs": {"share": "x"}}', "underused can't be called"),
    ],
)
def test_a_malformed_description_is_a_value_error(as_users, text, message):
    with pytest.raises(ValueError, match=message):
        from_json(text)
