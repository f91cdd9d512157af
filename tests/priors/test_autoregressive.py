"""Priors over codes: what each logit may see, and does see, measured by gradients."""

import functools

import codes as made
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from vqvae_jax import load_model, save_model
from vqvae_jax.priors import Condition, PixelCNN, TransformerPrior
from vqvae_jax.priors.conditioning import EXCLUDED, CodeEmbedding, GlobalCondition, is_code

each_causal = pytest.mark.parametrize("prior", made.CAUSAL.values(), ids=made.CAUSAL)
each = pytest.mark.parametrize("prior", made.ALL.values(), ids=made.ALL)


def shifting(shifts):
    """Adds a shift to the vectors of each of the codes of a grid, and to label and metadata."""

    def intercept(call, args, kwargs, context):
        found, module = call(*args, **kwargs), context.module
        if isinstance(module, CodeEmbedding) and context.method_name == "content":
            return found + shifts[str(module.grid)].reshape(found.shape)
        if isinstance(module, GlobalCondition) and context.method_name == "__call__":
            return found + shifts["global"]
        return found

    return nn.intercept_methods(intercept)


@functools.cache
def influence(prior, seed=0):
    """The largest |d logits_i / d vector_j| of all that is told: {str(grid): [T, tokens]}."""
    codes, condition = made.inputs(prior, seed=seed)
    variables = made.variables(prior, seed)
    levels = [(prior.grid, prior.vocab), *prior.coarse]
    shifts = {str(grid): jnp.zeros((np.prod(grid) * len(v), prior.width)) for grid, v in levels}
    told = (prior.classes > 0) + (prior.metadata > 0)
    shifts["global"] = jnp.zeros((told, prior.width))

    def logits(shifts):
        with shifting(shifts):
            return prior.apply(variables, codes, condition).reshape(codes.size, -1)

    gradients = jit(jax.jacrev(logits))(shifts)
    return {name: np.abs(g).max(axis=(1, 3), initial=0) for name, g in gradients.items()}


@each_causal
def test_logits_see_all_codes_before_and_no_others(prior):
    """d logits_i / d vector_j is 0 for j >= i, and not for j < i: no leak, no blind spot."""
    found = influence(prior)[str(prior.grid)]
    n = len(found)
    before = np.arange(n)[None] < np.arange(n)[:, None]
    np.testing.assert_array_equal(found[~before], 0)
    assert found[before].min() > 1e-9


@each
def test_label_metadata_and_all_coarser_codes_reach_all_logits(prior):
    found = influence(prior)
    assert found["global"].shape[1] == 2 and found["global"].min() > 1e-9
    for grid, _ in prior.coarse:
        assert found[str(grid)].min() > 1e-9, grid


def test_pixelcnn_sees_coarse_codes_that_are_far_away():
    prior = PixelCNN((2,), (1, 2), coarse=(((9, 9), (2,)),), width=8, depth=1)
    found = influence(prior)["(9, 9)"]
    assert found.shape == (2, 81) and found.min() > 1e-9


def test_masked_priors_see_all_other_codes():
    found = influence(made.MASKED)[str(made.MASKED.grid)]
    assert found.min() > 1e-9


@pytest.mark.parametrize("vocab", [(2,), (2, 3)])
def test_streams_add_up_where_there_are_several(vocab):
    """XLA for CUDA computes a sum over one stream, of zeros, for many seconds as it compiles."""
    prior, codes = PixelCNN(vocab, (2, 2), width=4, depth=1), jnp.zeros((1, 2, 2, len(vocab)), int)
    text = str(jax.make_jaxpr(prior.init_with_output)(jax.random.key(0), codes))
    assert ("cumsum" in text) == (len(vocab) > 1)


def test_pixelcnn_sees_as_far_as_it_says():
    prior = PixelCNN((2,), (5, 7), width=8, depth=2)
    shifts = {"(5, 7)": jnp.zeros((35, 8)), "global": 0.0}
    codes, variables = made.random_codes((5, 7), (2,)), made.variables(prior)

    def logits(shifts):
        with shifting(shifts):
            return prior.apply(variables, codes)[0, 4, 3]

    found = jit(jax.jacrev(logits))(shifts)["(5, 7)"]
    found = np.abs(found).max(axis=(0, 1, 3)).reshape(5, 7) > 0
    expected = np.zeros((5, 7), bool)
    expected[1:4, 1:6], expected[4, 0:3] = True, True  # depth * (kernel // 2), + 1 up and left
    np.testing.assert_array_equal(found, expected)


@each_causal
def test_codes_that_come_later_change_nothing(prior):
    codes, condition = made.inputs(prior)
    others = made.random_codes(prior.grid, prior.vocab, seed=5)
    variables, apply = made.variables(prior), made.applied(prior)
    expected = apply(variables, codes, condition).reshape(codes.size, -1)
    n = codes.size
    for t in (0, 1, n // 2, n - 1):
        mixed = jnp.where(jnp.arange(n) < t, codes.reshape(-1), others.reshape(-1))
        found = apply(variables, mixed.reshape(codes.shape), condition).reshape(n, -1)
        np.testing.assert_array_equal(found[: t + 1], expected[: t + 1])


@each
def test_logits_of_codes_that_a_stream_has_not(prior):
    logits = made.applied(prior)(made.variables(prior), *made.inputs(prior, 2))
    assert logits.dtype == jnp.float32 and logits.shape == (2, *prior.grid, 2, 5)
    np.testing.assert_array_equal(logits[..., 0, 3:], EXCLUDED)
    assert np.abs(logits[..., 0, :3]).max() < 1e3 and np.abs(logits[..., 1, :]).max() < 1e3


@each
def test_examples_do_not_see_each_other(prior):
    codes, condition = made.inputs(prior, 3)
    variables, apply = made.variables(prior), made.applied(prior)
    one = apply(variables, codes[1:2], jax.tree.map(lambda a: a[1:2], condition))
    np.testing.assert_allclose(apply(variables, codes, condition)[1:2], one, rtol=1e-4, atol=1e-5)


@each
def test_a_label_that_is_not_told_is_like_none_and_like_no_class(prior):
    codes, condition = made.inputs(prior, 3)
    variables, apply = made.variables(prior), made.applied(prior)
    unlabelled = apply(variables, codes, condition._replace(label=jnp.full(3, -1)))
    none = apply(variables, codes, condition._replace(label=None))
    np.testing.assert_array_equal(unlabelled, none)
    told = apply(variables, codes, condition._replace(label=jnp.arange(3)))
    assert np.abs(unlabelled - told).max(axis=tuple(range(1, told.ndim))).min() > 1e-4


def test_each_code_of_each_stream_has_its_own_vector():
    embedding = CodeEmbedding((3, 5), (2, 3), 4)
    shapes = jax.eval_shape(embedding.init, jax.random.key(0), jnp.zeros((1, 2, 3, 2), int))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda p: np.float32(rng.normal(size=p.shape)), shapes)
    codes, t = np.array([0, 1, 2, -1, 0, 1, 2, 3, 4, -1]), np.array([0] * 4 + [3] * 6)
    vectors = jit(lambda *args: embedding.apply(*args, method="content"))(variables, codes, t)
    np.testing.assert_array_equal(vectors[3], vectors[9])
    assert len(np.unique(vectors, axis=0)) == 3 + 5 + 1
    places = jit(lambda *args: embedding.apply(*args, method="place"))(variables, np.arange(12))
    assert len(np.unique(places, axis=0)) == 12


@each
def test_codes_that_are_not_known_have_a_vector_of_their_own(prior):
    """-1 and, under jit where it can't be refused, a code that its stream has not."""
    codes, condition = made.inputs(prior)
    variables, apply = made.variables(prior), made.applied(prior)
    first = (0,) * len(prior.grid)
    unknown = apply(variables, codes.at[(0, *first, 0)].set(-1), condition)
    assert np.isfinite(unknown).all()
    for k in (3, 4, 1000):  # 3 and 4 are codes of the other stream
        found = apply(variables, codes.at[(0, *first, 0)].set(k), condition)
        np.testing.assert_array_equal(found, unknown)
    assert np.abs(unknown - apply(variables, codes, condition)).max() > 1e-3
    coarse = tuple(jnp.full_like(c, -1) for c in condition.coarse)
    assert np.isfinite(apply(variables, codes, condition._replace(coarse=coarse))).all()


def test_which_codes_there_are():
    codes = np.array([[-1, 0], [0, 4], [2, 5], [3, -1]])
    expected = [[False, True], [True, True], [True, False], [False, False]]
    np.testing.assert_array_equal(is_code(jnp.asarray(codes), (3, 5)), expected)


@each
def test_folders(prior, tmp_path):
    """Saved and loaded, a prior is the same module with the same logits."""
    variables = made.variables(prior)
    save_model(tmp_path, prior, variables)
    again = load_model(tmp_path)
    assert again.model == prior
    args = made.inputs(prior)
    apply = jit(lambda model, *args: model.apply(*args), static_argnums=0)
    expected = apply(prior, variables, *args)
    np.testing.assert_array_equal(apply(again.model, again.variables, *args), expected)


@each
def test_bfloat16(prior):
    variables, args = made.variables(prior, size=0.2), made.inputs(prior, 2)
    expected = made.applied(prior)(variables, *args)
    found = jit(prior.clone(dtype="bfloat16").apply)(variables, *args)
    assert found.dtype == jnp.float32
    error = np.abs(found - expected)
    assert 0 < error.max() < 0.1


@each
def test_dropout(prior):
    prior = prior.clone(dropout=0.5)
    variables, args = made.variables(prior), made.inputs(prior, 2)

    @jit
    def trained(key):
        return prior.apply(variables, *args, train=True, rngs={"dropout": key})

    one, other = (trained(jax.random.key(i)) for i in (0, 1))
    assert np.abs(one - other).max() > 1e-3
    plain = made.applied(prior)(variables, *args)
    np.testing.assert_array_equal(plain, made.applied(prior.clone(dropout=0.0))(variables, *args))


def test_a_condition_that_was_not_asked_for_changes_nothing():
    prior = TransformerPrior((4,), (3,), **made.SMALL)
    logits = made.applied(prior)(made.variables(prior), made.random_codes((3,), (4,)))
    assert logits.shape == (1, 3, 1, 4)


BAD = {
    "codes must be": {"codes": jnp.zeros((2, 3, 3, 2), int)},
    r"stream 0 must be from -1 to 2": {"codes": jnp.full((2, 2, 3, 2), 3)},
    "2 coarser levels, got 1": {"coarse": (jnp.zeros((2, 1, 2, 1), int),)},
    r"coarse\[1\] must be": {"coarse": (jnp.zeros((2, 1, 2, 1), int),) * 2},
    r"metadata must be \[B, 2\].*None": {"metadata": None},
    r"metadata must be \[B, 2\].*\(3,\)": {"metadata": jnp.zeros((2, 3))},
    r"of 2 examples, got \[2, 5\]": {"label": jnp.zeros(5, int)},
}


@pytest.mark.parametrize("message", BAD)
def test_wrong_inputs(message, as_users):
    prior = made.TRANSFORMER
    codes, condition = made.inputs(prior, 2)
    bad = dict(BAD[message])
    codes = bad.pop("codes", codes)
    with pytest.raises(ValueError, match=message):
        prior.apply(made.variables(prior), codes, condition._replace(**bad))


def test_wrong_types(as_users):
    prior, variables = made.TRANSFORMER, made.variables(made.TRANSFORMER)
    codes, condition = made.inputs(prior, 2)
    with pytest.raises(TypeError, match="label must be integers, got dtype float32"):
        prior.apply(variables, codes, condition._replace(label=jnp.zeros(2)))
    with pytest.raises(TypeError, match="codes must be integers"):
        prior.apply(variables, codes.astype(float), condition)
    plain = TransformerPrior((4,), (3,), **made.SMALL)
    with pytest.raises(ValueError, match="no classes, got labels"):
        told = Condition(label=jnp.zeros(1, int))
        plain.apply(made.variables(plain), made.random_codes((3,), (4,)), told)


@pytest.mark.parametrize(
    "prior, message",
    [
        (TransformerPrior((4,), (3,), width=10, heads=4), "width 10 can't be split over 4 heads"),
        (TransformerPrior((4,), (3,), width=8, heads=0), "width 8 can't be split over 0 heads"),
        (TransformerPrior((4, 0), (3,)), r"vocab\[1\] must be an integer >= 1, got 0"),
        (TransformerPrior((4, 2**28), (3,)), r"vocab\[1\] = 268,435,456: .*, with grouped"),
        (TransformerPrior((), (3,)), "grid and vocab must not be empty"),
        (TransformerPrior((4,), (3,), classes=-1), r"classes must be in \[0, inf\), got -1"),
        (TransformerPrior((4,), (3,), dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (TransformerPrior((4,), (3,), depth=0), "depth must be an integer >= 1, got 0"),
        (PixelCNN((4,), (3,)), r"grids of two axes and an odd kernel, got \(\(3,\),\) and 3"),
        (PixelCNN((4,), (3, 3), kernel=2), "an odd kernel"),
        (PixelCNN((4,), (3, 3), coarse=(((2,), (2,)),)), "grids of two axes"),
    ],
)
def test_wrong_attributes(prior, message, as_users):
    codes = jnp.zeros((1, *prior.grid, len(prior.vocab)), int)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(prior.init, jax.random.key(0), codes)
