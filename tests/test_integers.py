"""Integers that enter: of any dtype, lists and NumPy's; what int32 can't hold; labels."""

import codes as made
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vqvae_jax as vj
from vqvae_jax.conversions import integers
from vqvae_jax.priors.losses import CodeBatch, prior_loss
from vqvae_jax.quantizers.digits import unpack
from vqvae_jax.reductions import sum_by_code
from vqvae_jax.training.step import gradient_step, start_state

KEY = jax.random.key(0)
FULL = {np.int8: 128, np.uint8: 256, np.int16: 2**15, np.uint16: 2**16}  # K fills the dtype
each_dtype = pytest.mark.parametrize("dtype", FULL)


@each_dtype
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_codes_of_a_dtype_that_they_fill_decode(dtype, array):
    size = FULL[dtype]
    q = vj.vq(size, 1, init=vj.inits.normal())
    params, state = q.init(KEY)
    k = array(np.arange(size, dtype=dtype)[:, None])
    for decode in (q.decode, jax.jit(q.decode)):
        np.testing.assert_array_equal(decode(params, state, k), params["codebook"])
    lookup = jax.jit(vj.lookup)(params["codebook"], jnp.asarray(k[:, 0]))
    np.testing.assert_array_equal(lookup, params["codebook"])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, list])
def test_codes_that_were_not_sent_are_not_counted(dtype):
    k = np.array([[-1], [0], [2]])
    k = k.tolist() if dtype is list else k.astype(dtype)
    np.testing.assert_array_equal(vj.metrics.code_counts((3,), k)[0], [1, 0, 1])
    np.testing.assert_array_equal(vj.rates.uniform_bits((4,), k), [0, 2, 2])
    if dtype is not list:
        ones, each = jnp.ones(3), jnp.asarray(k[:, 0])
        np.testing.assert_array_equal(
            jax.jit(sum_by_code, static_argnums=2)(ones, each, 200)[-1], 0
        )


@each_dtype
def test_digits_of_narrow_integers(dtype):
    last = np.array([[FULL[dtype] - 1]], dtype)
    levels = np.array([2] * int(np.log2(FULL[dtype])))
    np.testing.assert_array_equal(unpack(last, levels), [[1] * len(levels)])


def test_what_int32_cannot_hold():
    wide = np.array([[2**32 + 1]])
    for x in (wide, wide.astype(np.uint64), [[2**40]], np.array([[2**31]], np.uint32)):
        with pytest.raises(ValueError, match="k must fit int32, got values from"):
            integers("k", x)
    np.testing.assert_array_equal(integers("k", np.array([-1, 3], np.int64)), [-1, 3])
    traced = jax.jit(lambda k: integers("k", k))(jnp.array([2**32 - 1, 2**31, 5], jnp.uint32))
    assert traced.dtype == jnp.int32 and traced.tolist() == [-1, -1, 5]
    with jax.enable_x64(True):
        traced = jax.jit(lambda k: integers("k", k))(jnp.array([2**32 + 1, -(2**40), -1, 5]))
        assert traced.dtype == jnp.int32 and traced.tolist() == [-1, -1, -1, 5]


@pytest.mark.parametrize("x", [[0.5], np.zeros(1), [True], jnp.zeros(1), np.zeros(1, bool)])
def test_other_numbers_are_refused(x):
    with pytest.raises(TypeError, match="k must be integers, got dtype"):
        integers("k", x)


PRIOR = vj.priors.TransformerPrior((200, 7), (2,), classes=3, width=8, depth=1, heads=2)
CODES = np.array([[[199, 6], [150, 0]], [[0, 1], [2, 3]]])
VARIABLES = jax.jit(PRIOR.init)(
    KEY, jnp.zeros((1, 2, 2), int), vj.priors.Condition(jnp.zeros(1, int))
)
GIVEN = jnp.full((2, 2, 2), -1).at[0].set(5)


def test_priors_take_narrow_codes_and_lists():
    expected = PRIOR.apply(VARIABLES, jnp.asarray(CODES), vj.priors.Condition(jnp.array([0, 2])))
    for codes in (CODES.astype(np.uint8), CODES.tolist()):
        for label in ([0, 2], np.array([0, 2], np.uint8), (np.int64(0), np.int8(2))):
            found = PRIOR.apply(VARIABLES, codes, vj.priors.Condition(label))
            np.testing.assert_array_equal(found, expected)
    likely = vj.priors.log_likelihood(
        PRIOR, VARIABLES, CODES.astype(np.uint8), vj.priors.Condition([0, 2])
    )
    expected = vj.priors.log_likelihood(
        PRIOR, VARIABLES, CODES, vj.priors.Condition(jnp.array([0, 2]))
    )
    np.testing.assert_array_equal(likely, expected)


def test_given_codes_may_be_narrow():
    """Codes up to 199 are drawn into what was an int8."""
    given = GIVEN.astype(jnp.int8)
    draw = jax.jit(
        lambda given: vj.priors.sample_codes(
            KEY, PRIOR, VARIABLES, given, filters=[vj.priors.top_k(1)]
        )
    )
    np.testing.assert_array_equal(draw(given), draw(GIVEN))


BAD_LABELS = {
    "labels must be from -1 to 2, got 0 to 3": [0, 3],
    "labels must be from -1 to 2, got -2 to 0": [-2, 0],
    r"labels must be \[B\], got shape \(2, 1\)": [[0], [1]],
    "label must fit int32": [0, 2**32],
}


@pytest.mark.parametrize("message", BAD_LABELS)
def test_labels_that_are_no_classes_raise(message):
    with pytest.raises(ValueError, match=message):
        PRIOR.apply(VARIABLES, CODES, vj.priors.Condition(BAD_LABELS[message]))


@pytest.mark.parametrize("prior", [made.TRANSFORMER, made.PIXELCNN, made.MASKED])
def test_traced_labels_beyond_the_classes_are_not_told(prior):
    codes, condition = made.inputs(prior, 4)
    apply = jax.jit(prior.apply)
    logits = [
        apply(made.variables(prior), codes, condition._replace(label=jnp.asarray(label)))
        for label in ([0, prior.classes, 99, -7], [0, -1, -1, -1])
    ]
    assert np.isfinite(logits[0]).all()
    np.testing.assert_array_equal(*logits)


def test_the_loss_of_labels_beyond_the_classes():
    """Not told; where it is not learnt what that means, they don't count. Either way a metric."""
    state = start_state(lambda key: VARIABLES, optax.sgd(0.1), KEY)
    mask = jnp.ones(2)

    def metrics(step, label, mask):
        told = vj.priors.Condition(jnp.asarray(label))
        return step(state, CodeBatch(jnp.asarray(CODES), told, mask))[1]

    for unconditional, other in ((1.0, ([1, -1], mask)), (0.0, ([1, 0], mask.at[1].set(0)))):
        step = jax.jit(gradient_step(prior_loss(PRIOR, unconditional), optax.sgd(0.1)))
        found = metrics(step, [1, 3], mask)
        assert found["loss"] == metrics(step, *other)["loss"]
        assert found["invalid_labels"] == 1 and found["skipped"] == 0
    with pytest.raises(ValueError, match="labels must be from -1 to 2, got 1 to 3"):
        prior_loss(PRIOR)(state.params, state, CodeBatch(CODES, vj.priors.Condition([1, 3])), None)


def test_maps_of_models():
    coder = {"dim": 4, "width": 4, "depth": 1, "downsamplings": 1}
    model = vj.VQVAE(vj.Encoder(**coder), vj.vq(256, 4), vj.MLP(1))
    variables = jax.jit(model.init)(KEY, jnp.zeros((1, 4, 4, 1)))
    codes = np.array([[[[255], [0]], [[1], [200]]]])
    f = vj.as_functions(model)
    for narrow in (codes.astype(np.uint8), jnp.asarray(codes, jnp.uint8), codes.tolist()):
        np.testing.assert_array_equal(
            f.detokenize(variables, narrow), f.detokenize(variables, jnp.asarray(codes))
        )
