"""The scale of the data is part of a model: other data raise or get no codes, never wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vqvae_jax as vj
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.data.value_range import admit
from vqvae_jax.training.step import init_state, make_train_step

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (5, 4, 4, 1)).astype(np.uint8)
UNIT = (X / 255).astype(np.float32)
ENCODER, DECODER, Q = vj.MLP(3, 8, 1), vj.MLP(1, 8, 1), vj.vq(16, 3, init=vj.inits.normal(0.3))


def upper(cls, **options):
    """A model of two levels or scales, from the same parts."""
    if cls is vj.VQVAE2:
        return cls((vj.MLP(3, 8, 1), ENCODER), (Q, Q), (vj.MLP(3, 8, 1), DECODER), **options)
    return cls(ENCODER, Q, DECODER, sizes=((1, 1), (4, 4)), **options)


MODELS = {
    "VQVAE": lambda **o: vj.VQVAE(ENCODER, Q, DECODER, **o),
    "VQVAE2": lambda **o: upper(vj.VQVAE2, **o),
    "Pyramid": lambda **o: upper(vj.Pyramid, **o),
    "VAE": lambda **o: vj.VAE(vj.MLP(6, 8, 1), DECODER, **o),
    "Autoencoder": lambda **o: vj.Autoencoder(ENCODER, DECODER, **o),
}


@pytest.mark.parametrize("name", MODELS)
def test_bytes_enter_as_their_floats_do_and_other_floats_raise(name):
    model = MODELS[name](domain=vj.pixels())
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    encode = lambda x: model.apply(variables, x, method="encode")  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, encode(X), encode(preprocess(X)))
    for call in (encode, lambda x: model.apply(variables, x)):
        with pytest.raises(ValueError, match=r"from 0\S* to \S+, but .* uint8 .* need - 0.5"):
            call(UNIT)
        with pytest.raises(ValueError, match=r"grey levels 0 to 255 must be uint8"):
            call(X.astype(np.float32))
        with pytest.raises(TypeError, match=r"expected uint8.*int32"):
            call(X.astype(np.int32))
    made = model.apply(variables, X).x
    assert made.dtype == jnp.float32 and made.shape == X.shape


@pytest.mark.parametrize("name", ["VQVAE", "VQVAE2", "Pyramid"])
def test_under_jit_examples_out_of_the_domain_get_no_codes(name):
    model = MODELS[name](domain=vj.pixels())
    f = vj.as_functions(model)
    variables = jax.jit(f.init)(jax.random.key(0), X)
    x = preprocess(X)
    mixed = jnp.concatenate([x[:2], UNIT[2:4], x[4:]])
    for found, right in zip(
        *(jax.tree.leaves(jax.jit(f.tokenize)(variables, v)) for v in (mixed, x)), strict=True
    ):
        assert (found[2:4] == -1).all() and (right >= 0).all()
        np.testing.assert_array_equal(found[jnp.array([0, 1, 4])], right[jnp.array([0, 1, 4])])


def test_a_domain_is_in_the_json_of_a_model_that_has_one_and_changes_no_other():
    for model in (make() for make in MODELS.values()):
        assert "domain" not in vj.to_json(model)
    for domain in (vj.pixels(), vj.values(-3, 4.5)):
        for make in MODELS.values():
            model = make(domain=domain)
            assert vj.from_json(vj.to_json(model)) == model != make()
            assert model.domain == domain


def test_values_are_checked_against_their_range():
    domain = vj.values(-2, 3)
    x = np.float32([[-2.0, 3.0], [np.nan, 0.0], [np.inf, 0.0]])
    assert admit(domain, x) is x  # what is not finite is no matter of range: it gets index -1
    with pytest.raises(ValueError, match=r"from -2 to 3.5, but this model takes floats from -2 to"):
        admit(domain, x + 0.5 * (x > 0))
    with pytest.raises(ValueError, match="x is uint8, but this model takes floats from -2 to 3"):
        admit(domain, X)
    with pytest.raises(ValueError, match="low < high, got 1 and 1"):
        vj.values(1, 1)
    assert admit(None, UNIT) is UNIT


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 1, r"\[0, 1\] need - 0.5"),
        (0, 254, "must be uint8"),
        (-1, 0.9, r"\[-1, 1\] need / 2"),
        (-3, 9, "x / 255 - 0.5"),
    ],
)
def test_the_error_says_what_the_floats_look_like(low, high, words):
    with pytest.raises(ValueError, match=words):
        admit(vj.pixels(), np.float32([[low, high]]))


def test_overshoot_of_pixels_passes():
    x = np.float32([[-0.59, 0.59]])
    assert admit(vj.pixels(), x) is x
    with pytest.raises(ValueError, match=r"from -0.59 to 0.61"):
        admit(vj.pixels(), x + np.float32([0, 0.02]))


def test_training_leaves_examples_out_of_the_domain_out():
    model, optimizer = MODELS["VQVAE"](domain=vj.pixels()), optax.sgd(0.1)
    state = init_state(model, optimizer, jax.random.key(0), X)
    step = jax.jit(make_train_step(model, optimizer))
    x = np.asarray(preprocess(X))
    new, metrics = step(state, np.concatenate([x, X.astype(np.float32)]))
    assert metrics["invalid_examples"] == 5
    like, _ = step(state, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.params, like.params)
    _, metrics = step(state, UNIT)
    assert metrics["skipped"] == 1 and metrics["invalid_examples"] == 5
    with pytest.raises(ValueError, match="x is uint8, but this model takes floats"):
        other = MODELS["VQVAE"](domain=vj.values(0, 1))
        make_train_step(other, optimizer)(state, X)
