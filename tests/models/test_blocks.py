"""Encoders and decoders: exact where a formula exists, shapes and dtypes everywhere, bad input.

Shapes come from `jax.eval_shape`, which traces and compiles nothing: an error raised there is
raised before any compile.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax import MLP, VQVAE, Decoder, Encoder, vq
from vqvae_jax.models import ResidualStack, Upsample

close = np.testing.assert_allclose
KEY = jax.random.key(0)


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def shape_of(module, *shape, dtype=jnp.float32):
    """The output of a new module for an input of this shape, traced only."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x)[0], x)


def random_params(module, x, seed=3):
    """Parameters of the shapes of `module.init`, without compiling it; biases are not zero."""
    shapes = jax.eval_shape(lambda: module.init(KEY, x))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.float32(0.3 * rng.normal(size=p.shape)), shapes)


def conv(x, params, groups=1):
    """A stride-1 convolution, padded to the size of x, by lax alone."""
    rank = x.ndim - 2
    letters = "XYZ"[:rank]
    y = jax.lax.conv_general_dilated(
        x,
        params["kernel"],
        (1,) * rank,
        "SAME",
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
        precision="highest",
    )
    return y + params["bias"]


def transposed_kernel(kernel, features):
    """The kernel [4, ..., C, F] of the layer which `Upsample` is in sub-pixel form.

    Output 2i + p reads the inputs i + p - 1 and i + p by the taps p and 2 + p of four: tap
    2a + p is tap a of the small convolution for phase p.
    """
    rank, channels = kernel.ndim - 2, kernel.shape[-2]
    taps = kernel.reshape((2,) * rank + (channels,) + (2,) * rank + (features,))
    pairs = [axis for i in range(rank) for axis in (i, rank + 1 + i)]
    return taps.transpose(*pairs, rank, 2 * rank + 1).reshape((4,) * rank + (channels, features))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_upsample_is_the_transposed_convolution_of_four_taps_and_stride_two(rank):
    features, sides = 3, (3, 2, 4)[:rank]
    x = random(2, *sides, 5)
    layer = Upsample(features)
    params = random_params(layer, x)
    pull = random(2, *(2 * side for side in sides), features, seed=2)

    def reference(params, x):
        kernel = transposed_kernel(params["Conv_0"]["kernel"], features)
        y = jax.lax.conv_transpose(x, kernel, (2,) * rank, "SAME", precision="highest")
        return y + params["bias"]

    def value_and_gradients(f):
        y, gradients = jax.vjp(f, params, x)
        return y, *gradients(pull)

    ours = jax.jit(value_and_gradients, static_argnums=0)(
        lambda p, x: layer.apply({"params": p}, x)
    )
    theirs = jax.jit(value_and_gradients, static_argnums=0)(reference)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_zeros_around_upsample_stay_out_of_the_convolution_on_accelerators():
    """XLA for CUDA makes the kernel's gradient a forward convolution of few tiles otherwise."""
    x, layer = jnp.ones((2, 3, 3, 4)), Upsample(3)
    params = random_params(layer, x)
    for platform, times in (("cpu", 0), ("cuda", 2), ("tpu", 2)):  # value and gradient
        both = jax.value_and_grad(lambda p, x: layer.apply({"params": p}, x).sum(), 1)
        text = jax.jit(both).trace(params, x).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.optimization_barrier") == times, platform


@pytest.mark.parametrize("groups", [1, 2])
def test_residual_stack_adds_what_its_formula_says(groups):
    x = random(2, 4, 3, 8)
    layer = ResidualStack(8, depth=2, groups=groups)
    params = random_params(layer, x)

    @jax.jit
    def formula(y):
        for i in (0, 2):
            h = conv(jax.nn.relu(y), params[f"Conv_{i}"], groups)
            y = y + conv(jax.nn.relu(h), params[f"Conv_{i + 1}"])
        return jax.nn.relu(y)

    out = jax.jit(layer.apply)({"params": params}, x)
    close(out, formula(x), rtol=1e-5, atol=1e-5)
    assert params["Conv_0"]["kernel"].shape == (3, 3, 8 // groups, 8)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("halvings", range(5))
def test_the_decoder_undoes_the_sizes_of_the_encoder(rank, halvings):
    sides = tuple(n * 2**halvings for n in (1, 2, 3)[:rank])
    encoder = Encoder(channels=2, dim=5, width=8, downsamplings=halvings, depth=1, groups=2)
    decoder = Decoder(channels=2, dim=5, width=8, upsamplings=halvings, depth=1, groups=2)
    z = shape_of(encoder, 3, *sides, 2)
    assert z.shape == (3, *(1, 2, 3)[:rank], 5)
    x = shape_of(decoder, *z.shape)
    assert (x.shape, x.dtype) == ((3, *sides, 2), jnp.float32)


@pytest.mark.parametrize("rank", [1, 3])
def test_every_parameter_and_every_pixel_has_a_part_in_the_output(rank):
    encoder = Encoder(dim=4, width=8, downsamplings=1, depth=1)
    decoder = Decoder(dim=4, width=8, upsamplings=1, depth=1)
    x = random(2, *(4,) * rank, 1)

    z = jnp.zeros(shape_of(encoder, *x.shape).shape)
    params = random_params(encoder, x), random_params(decoder, z)

    def call(params, x):
        z = encoder.apply({"params": params[0]}, x)
        y = decoder.apply({"params": params[1]}, z)
        return jnp.sum(jnp.square(y - 1))

    gradients = jax.jit(jax.grad(call, argnums=(0, 1)))(params, x)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.any(gradient), f"no gradient for {jax.tree_util.keystr(path)}"
    assert np.all(gradients[1])


def test_bfloat16_is_for_activations_and_never_for_parameters_or_pictures():
    encoder = Encoder(dim=4, width=8, downsamplings=1, depth=1, dtype="bfloat16")
    decoder = Decoder(dim=4, width=8, upsamplings=1, depth=1, dtype="bfloat16")
    x = random(2, 4, 4, 1)

    def run(module, x):
        variables = module.init(KEY, x)
        return variables, *module.apply(variables, x, capture_intermediates=True)

    variables, z, inside = jax.eval_shape(lambda x: run(encoder, x), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(inside)} == {jnp.dtype("bfloat16")}
    variables, y, inside = jax.eval_shape(lambda z: run(decoder, z), z)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    inside = inside["intermediates"]
    assert inside.pop("__call__")[0].dtype == y.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(inside)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("axis", [1, 2])
def test_sides_from_0_to_40_work_if_4_divides_them_and_else_say_so(as_users, axis):
    encoder = Encoder(dim=4, width=8, depth=0)
    for side in range(41):
        shape = [1, 8, 8, 1]
        shape[axis] = side
        if side and side % 4 == 0:
            assert shape_of(encoder, *shape).shape[axis] == side // 4
            continue
        with pytest.raises(ValueError, match="multiples of 4") as error:
            shape_of(encoder, *shape)
        assert f"got shape {tuple(shape)}" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_batch_of_nothing_is_refused():
    for module, shape in ((Encoder(), (0, 8, 8, 1)), (Decoder(dim=4), (0, 2, 2, 4))):
        with pytest.raises(ValueError, match="B >= 1"):
            shape_of(module, *shape)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "bool"])
def test_pixels_that_were_not_scaled_are_refused(as_users, dtype):
    for module, channels in ((Encoder(), 1), (Decoder(dim=4), 4), (MLP(4), 4)):
        with pytest.raises(TypeError, match=rf"float, got {dtype}: use .*preprocess"):
            module.init(KEY, jnp.zeros((1, 8, 8, channels), dtype))


@pytest.mark.parametrize(
    "shape",
    [(8, 3), (3,), (), (1, 8, 8, 1), (2, 3, 8, 8), (3, 8, 8), (1, 8, 8, 8, 8, 3)],
    ids=["rows", "vector", "scalar", "gray", "NCHW", "CHW", "4 spatial axes"],
)
def test_a_wrong_rank_or_channel_count_is_told_with_both_shapes(as_users, shape):
    expected = r"\[B, 1 to 3 spatial axes, 3 channels\], got shape "
    with pytest.raises(ValueError, match=expected) as error:
        shape_of(Encoder(channels=3), *shape)
    assert str(error.value).startswith("x must be")
    assert str(error.value).endswith(str(shape))
    with pytest.raises(ValueError, match=expected) as error:
        shape_of(Decoder(dim=3), *shape)
    assert str(error.value).startswith("z_q must be")


@pytest.mark.parametrize("field", ["channels", "dim", "width", "groups"])
@pytest.mark.parametrize("module, x", [(Encoder, (1, 4, 4, 1)), (Decoder, (1, 1, 1, 64))])
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_sizes_that_are_no_positive_integers_are_named(as_users, module, x, field, value):
    with pytest.raises(ValueError, match=rf"{field} must be an integer >= 1, got {value}"):
        shape_of(module(**{field: value}), *x)


def test_mlp_is_dense_layers_with_relu_between():
    x = random(2, 3, 6)
    layer = MLP(4, width=8, depth=2)
    params = random_params(layer, x)
    h = np.asarray(x, np.float64)
    for i in range(3):
        dense = params[f"Dense_{i}"]
        h = (np.maximum(h, 0) if i else h) @ np.float64(dense["kernel"]) + dense["bias"]
    close(layer.apply({"params": params}, x), h, rtol=1e-5, atol=1e-6)


def test_a_pair_of_mlps_makes_a_vqvae_of_vectors():
    model = VQVAE(MLP(3, width=8, dtype="bfloat16"), vq(5, 3), MLP(6, width=8))
    x = random(7, 6)
    out, _ = jax.eval_shape(lambda: model.init_with_output(KEY, x))
    assert out.x.shape == x.shape
    assert out.indices.shape == (7, 1)
    assert out.z_e.dtype == jnp.float32  # the output of an MLP is, whatever its activations are
