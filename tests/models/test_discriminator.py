"""The patch discriminator: what each logit sees, and that examples don't see each other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax import from_json, to_json
from vqvae_jax.models import PatchDiscriminator

KEY = jax.random.key(0)
SMALL = PatchDiscriminator(width=4, groups=2)
X = jax.random.normal(KEY, (3, 12, 8, 2))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(SMALL.init)(KEY, X)


@pytest.mark.parametrize(
    ("downsamplings", "sides", "patches"),
    [(1, (8, 12), (4, 6)), (2, (28, 28), (7, 7)), (2, (7,), (2,)), (1, (4, 4, 6), (2, 2, 3))],
)
def test_a_logit_for_each_patch(downsamplings, sides, patches):
    layer = PatchDiscriminator(4, downsamplings)
    x = jnp.zeros((2, *sides, 3))
    logits, variables = jax.eval_shape(layer.init_with_output, KEY, x)
    assert logits.shape == (2, *patches) and logits.dtype == jnp.float32
    assert set(variables) == {"params"}


def by_hand(params, x):
    """Written out with Flax's own layers."""

    def conv(i, x, stride):
        kernel = params[f"Conv_{i}"]["kernel"]
        y = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + params[f"Conv_{i}"]["bias"]

    def norm(i, x):
        y = x.reshape(*x.shape[:-1], 2, -1)
        mean, var = y.mean((1, 2, 4), keepdims=True), y.var((1, 2, 4), keepdims=True)
        y = ((y - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
        return y * params[f"GroupNorm_{i}"]["scale"] + params[f"GroupNorm_{i}"]["bias"]

    leaky = lambda x: jnp.where(x > 0, x, 0.2 * x)  # noqa: E731
    x = leaky(conv(0, x, 2))
    x = leaky(norm(0, conv(1, x, 2)))
    x = leaky(norm(1, conv(2, x, 1)))
    return conv(3, x, 1)[..., 0]


def test_logits_are_those_written_out(variables):
    noise = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(KEY, p.shape), variables)
    expected = by_hand(noise["params"], X)
    np.testing.assert_allclose(SMALL.apply(noise, X), expected, rtol=1e-4, atol=1e-5)
    assert [noise["params"][f"Conv_{i}"]["kernel"].shape[-1] for i in range(4)] == [4, 8, 16, 1]


def test_widths_double_up_to_eight_times():
    params = jax.eval_shape(PatchDiscriminator(2, 5).init, KEY, jnp.zeros((1, 64, 64, 1)))["params"]
    widths = [params[f"Conv_{i}"]["kernel"].shape[-1] for i in range(7)]
    assert widths == [2, 4, 8, 16, 16, 16, 1]


def test_examples_do_not_see_each_other(variables):
    whole = SMALL.apply(variables, X)
    each = [SMALL.apply(variables, x[None])[0] for x in X]
    np.testing.assert_allclose(whole, each, rtol=1e-4, atol=1e-5)
    slope = jax.grad(lambda x: SMALL.apply(variables, x)[0].sum())(X)
    assert np.any(slope[0]) and not np.any(slope[1:])


def test_a_logit_sees_34_pixels_along_an_axis():
    """Without normalisation, which sees all of an image, the patch is that of the paper."""
    layer = PatchDiscriminator(2)
    x = jnp.zeros((1, 64, 1))
    variables = jax.jit(layer.init)(KEY, x)
    plain = lambda self, x: x  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.GroupNorm, "__call__", plain)
        slope = jax.grad(lambda x: layer.apply(variables, x)[0, 8])(x + 0.3)
    (seen,) = np.nonzero(np.any(slope[0], axis=-1))
    assert seen[-1] - seen[0] + 1 == 34


def test_bfloat16_has_float32_params_and_logits(variables):
    half = SMALL.clone(dtype="bfloat16")
    assert half.apply(variables, X).dtype == jnp.float32
    np.testing.assert_allclose(half.apply(variables, X), SMALL.apply(variables, X), atol=0.1)


def test_json():
    assert from_json(to_json(SMALL)) == SMALL


def test_input_that_does_not_fit_is_named(as_users):
    with pytest.raises(ValueError, match="width must be an integer >= 1, got 0"):
        PatchDiscriminator(0).init(KEY, X)
    with pytest.raises(TypeError, match="x must be float, got uint8"):
        SMALL.init(KEY, X.astype(jnp.uint8))
