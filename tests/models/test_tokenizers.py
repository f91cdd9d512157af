"""BEST-RQ's tokenizer: another library's codes, its laws, and how many codes it uses."""

import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.metrics import code_counts, usage
from vqvae_jax.models.tokenizers import layer_norm, random_projection

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(2), (6, 5, 8))
T = random_projection(16, 8, 4, heads=2)
STATE = T.init(KEY)


def unit64(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def encode64(state, x, norm=True):
    """Equation 1 of the paper, head by head, the largest cosine."""
    x = np.asarray(x, np.float64)
    if norm:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    heads = zip(state["projection"], state["codebook"], strict=True)
    cosines = [unit64(x @ np.asarray(a, float)) @ unit64(np.asarray(c, float)).T for a, c in heads]
    return np.stack([np.argmax(cosine, -1) for cosine in cosines], axis=-1)


def test_codes_are_those_of_another_library():
    with np.load(Path(__file__).parents[1] / "golden" / "random_projection.npz") as g:
        (heads, size, code_dim), dim = g["codebook"].shape, g["x"].shape[-1]
        t = random_projection(size, dim, code_dim, heads=heads)
        state = {name: jnp.asarray(g[name]) for name in ("projection", "codebook")}
        codes = t.encode(state, jnp.asarray(g["x"]))
        np.testing.assert_array_equal(codes, g["indices"])
        assert (np.max(g["indices"]) < size) and len(np.unique(g["indices"])) > size / 2


def test_codes_by_the_paper():
    codes = jax.jit(T.encode)(STATE, X)
    np.testing.assert_array_equal(codes, encode64(STATE, X))
    assert codes.shape == (6, 5, 2) and codes.dtype == jnp.int32 and T.vocab == (16, 16)
    np.testing.assert_array_equal(codes, T.encode(STATE, X.reshape(30, 8)).reshape(6, 5, 2))
    np.testing.assert_array_equal(codes, T.encode(STATE, 5 + 3 * X))  # what normalisation undoes
    plain = random_projection(16, 8, 4, heads=2, norm=None)
    shifted = 5 + 3 * X
    np.testing.assert_array_equal(plain.encode(STATE, shifted), encode64(STATE, shifted, False))
    assert np.any(plain.encode(STATE, shifted) != codes)


def test_codes_do_not_depend_on_the_lengths_of_the_codes():
    lengths = jnp.linspace(0.1, 10, 16)[:, None]
    scaled = STATE | {"codebook": STATE["codebook"] * lengths}
    np.testing.assert_array_equal(T.encode(scaled, X), T.encode(STATE, X))


def test_rows_that_do_not_count_get_no_code():
    spoilt = np.array(X)
    spoilt[2, 3, 0], spoilt[4, 1, 7] = np.nan, np.inf
    mask = np.ones((6, 5))
    mask[0, 2] = 0
    codes = T.encode(STATE, jnp.asarray(spoilt), mask)
    bad = np.zeros((6, 5), bool)
    bad[[2, 4, 0], [3, 1, 2]] = True
    np.testing.assert_array_equal(codes[bad], -1)
    np.testing.assert_array_equal(codes[~bad], T.encode(STATE, X)[~bad])
    constant = T.encode(STATE, jnp.ones((1, 8)))  # has no direction: any code, but one
    assert ((constant >= 0) & (constant < 16)).all()


def test_the_draws_are_those_of_the_paper():
    dim, code_dim = 48, 16
    state = random_projection(512, dim, code_dim, heads=3).init(KEY)
    a, c = (np.asarray(state[name]) for name in ("projection", "codebook"))
    assert a.shape == (3, dim, code_dim) and c.shape == (3, 512, code_dim)
    bound = np.sqrt(6 / (dim + code_dim))
    assert np.abs(a).max() <= bound and np.abs(a).max() > 0.99 * bound
    np.testing.assert_allclose(a.std(), bound / np.sqrt(3), rtol=0.03)  # uniform, not normal
    np.testing.assert_allclose([c.mean(), c.std()], [0, 1], atol=0.02)
    np.testing.assert_allclose(np.mean(c**4), 3, rtol=0.1)  # normal, not uniform
    for x in (a, c):  # each head draws its own
        assert np.abs(np.corrcoef(x.reshape(3, -1)) - np.eye(3)).max() < 0.1


def test_normal_data_use_most_of_the_codes():
    t = random_projection(64, 80, 16)
    x = jax.random.normal(KEY, (4000, 80)) * 7 + 2
    counts = code_counts(t.vocab, t.encode(t.init(jax.random.key(1)), x))[0]
    use = usage(counts)
    assert use["used"] == 1 and use["perplexity"] > 45 and use["seen"] == 4000


def test_layer_norm_is_of_mean_0_and_deviation_1():
    y = np.asarray(layer_norm(jnp.asarray(5 + 3 * X)))
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(-1), 1, atol=1e-5)


def test_a_tokenizer_is_its_call():
    assert (
        T == random_projection(size=16, dim=8, code_dim=4, heads=2) != random_projection(16, 8, 4)
    )
    again = pickle.loads(pickle.dumps(T))
    assert again == T and hash(again) == hash(T)
    assert repr(T) == "random_projection(size=16, dim=8, code_dim=4, heads=2, norm=layer_norm)"
    np.testing.assert_array_equal(again.encode(again.init(KEY), X), T.encode(STATE, X))


@pytest.mark.parametrize("name", ["size", "dim", "code_dim", "heads"])
def test_arguments_out_of_range_are_named(as_users, name):
    arguments = {"size": 8, "dim": 8, "code_dim": 4, "heads": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got 0"):
        random_projection(**arguments)


def test_rows_that_do_not_fit_are_named(as_users):
    with pytest.raises(ValueError, match=r"z must be \[\.\.\., 8\], got shape \(2, 7\)"):
        T.encode(STATE, jnp.ones((2, 7)))
    with pytest.raises(TypeError, match="must be float, got int32"):
        T.encode(STATE, jnp.ones((2, 8), int))
    with pytest.raises(ValueError, match="mask must have the shape"):
        T.encode(STATE, jnp.ones((2, 8)), jnp.ones(3))
