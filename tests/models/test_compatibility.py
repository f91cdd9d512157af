"""What does not fit is named in the caller's words: (call, what the message says)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqvae_jax as vj
from vqvae_jax.checks import check_indices

KEY = jax.random.key(0)
X = jnp.zeros((2, 8, 8, 1))
ROWS = jnp.zeros((2, 5))


def filled(model, x):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(model.init, KEY, x))


def made(model, x):
    """The methods of a model, traced only, with variables of the shapes of init."""
    v = filled(model, x)

    def call(method, *args, **options):
        return jax.eval_shape(lambda: model.apply(v, *args, method=method, **options))

    return call


def halving(channels, dim):
    return vj.Encoder(channels, dim, 4, downsamplings=1, depth=0)


def doubling(channels, dim):
    return vj.Decoder(channels, dim, 4, upsamplings=1, depth=0)


def inner(parts):
    return vj.models.Microbatched(vj.Encoder(dim=4, width=4, depth=0), parts)


PICTURES = made(vj.VQVAE(inner(2), vj.vq(6, 4), vj.Decoder(dim=4, width=4, depth=0)), X)
STREAMS = made(
    vj.VQVAE(halving(1, 4), vj.repeat(vj.vq(6, 4), 8), vj.models.Microbatched(doubling(1, 4), 1)), X
)
VECTORS = made(vj.VQVAE(vj.MLP(4, 8, 1), vj.vq(6, 4), vj.MLP(5, 8, 1)), ROWS)
LEVELS = made(
    vj.VQVAE2((halving(4, 3), halving(1, 4)), (vj.vq(6, 3),) * 2, (doubling(4, 3), doubling(1, 7))),
    X,
)
VAE = made(vj.VAE(halving(1, 8), doubling(1, 4)), X)
PLAIN = made(vj.Autoencoder(vj.MLP(4), vj.MLP(5)), ROWS)
PYRAMID = made(vj.Pyramid(halving(1, 3), vj.vq(6, 3), doubling(1, 3), sizes=((1, 1), (4, 4))), X)
PRIOR = vj.priors.TransformerPrior((6,), (4, 4), width=8, depth=1, heads=2)
PRIORS = made(PRIOR, jnp.zeros((2, 4, 4, 1), int))
CODES = jnp.zeros((2, 2, 2, 1), int)
TOP, BOTTOM = CODES, jnp.zeros((2, 4, 4, 1), int)

CALLS = {
    "channels": (lambda: PICTURES("tokenize", jnp.zeros((2, 8, 8, 3))),
        r"^x must be \[B, 2 spatial axes, 1 channels\], got shape \(2, 8, 8, 3\)"),
    "NCHW": (lambda: STREAMS(None, jnp.zeros((2, 1, 8, 8))),
        r"^x must be \[B, 2 spatial axes, 1 channels\], got shape \(2, 1, 8, 8\)"),
    "vectors into convolutions": (lambda: PICTURES("encode", jnp.zeros((2, 1))),
        r"^x must be \[B, 2 spatial axes, 1 channels\], got shape \(2, 1\)"),
    "a signal for a model of pictures": (lambda: STREAMS("tokenize", jnp.zeros((2, 8, 1))),
        r"^x must be \[B, 2 spatial axes, 1 channels\], got shape \(2, 8, 1\)"),
    "sides": (lambda: PICTURES("tokenize", jnp.zeros((2, 8, 6, 1))),
        r"^x must have B >= 1 and sides that are multiples of 4, got shape \(2, 8, 6, 1\)"),
    "sides of two levels": (lambda: LEVELS("tokenize", jnp.zeros((2, 8, 6, 1))),
        r"^x must have B >= 1 and sides that are multiples of 4, got shape \(2, 8, 6, 1\)"),
    "rank of two levels": (lambda: LEVELS(None, jnp.zeros((2, 8, 1))),
        r"^x must be \[B, 2 spatial axes, 1 channels\], got shape \(2, 8, 1\)"),
    "no examples": (lambda: PICTURES("tokenize", X[:0]), r"^x must have B >= 1"),
    "width of vectors": (lambda: VECTORS("tokenize", jnp.zeros((2, 7))),
        r"^x must be \[\.\.\., 5\] as at init, got shape \(2, 7\)"),
    "vectors of an autoencoder": (lambda: PLAIN("encode", jnp.zeros((2, 7))),
        r"^x must be \[\.\.\., 5\] as at init, got shape \(2, 7\)"),
    "signal for a VAE": (lambda: VAE("encode", jnp.zeros((2, 8, 1))), r"^x must be \[B, 2 spatial"),
    "z of a VAE": (lambda: VAE("decode", jnp.zeros((2, 4, 4))), r"must be \[B, 2 spatial axes, 4"),
    "z_e": (lambda: PICTURES("quantize", jnp.zeros((2, 2, 2, 3))),
        r"^z_e must be \[B, \*grid, 4\], as wide as the quantizer, got shape \(2, 2, 2, 3\)"),
    "z_q": (lambda: PICTURES("decode", jnp.zeros((2, 2, 4))),
        r"^z_q must be \[B, 2 spatial axes, 4"),
    "no axis of streams": (lambda: PICTURES("detokenize", CODES[..., 0]),
        r"indices must be \[\.\.\., 1\], got shape \(2, 2, 2\): .*indices\[\.\.\., None\]"),
    "some streams": (lambda: STREAMS("detokenize", jnp.zeros((2, 4, 4, 3), int)),
        r"must be \[\.\.\., 8\].*-1 stands for what was not sent, jnp\.pad\(indices, "),
    "rank of codes": (lambda: STREAMS("detokenize", jnp.zeros((2, 4, 8), int)),
        r"^indices must be \[B, 2 axes of the grid, 8 streams\], got shape \(2, 4, 8\)"),
    "codes of another model": (lambda: PICTURES("detokenize", CODES + 6),
        "from -1 to 5, got 6 to 6"),
    "float codes": (lambda: PICTURES("detokenize", jnp.zeros((2, 2, 2, 1))), "integers.*float32"),
    "the bottom alone": (lambda: LEVELS("detokenize", [BOTTOM]),
        r"an entry for each of 2 levels, top-down, with None .* got 1: \(2, 4, 4, 1\)"),
    "levels from the bottom up": (lambda: LEVELS("detokenize", [BOTTOM, TOP]),
        r"a level must have the batch and grid of the decoder above, \(2, 8, 8\)"),
    "rank of a level": (lambda: LEVELS("detokenize", [TOP[:, 0], None]),
        r"^level 0 must be \[B, 2 axes of the grid, 1 streams\], got shape \(2, 2, 1\)"),
    "grid of a pyramid": (lambda: PYRAMID("tokenize", jnp.zeros((2, 4, 4, 1))),
        r"^x must have sides .* \(4, 4\); it maps shape \(2, 4, 4, 1\) to \(2, 2\)"),
    "mask of a pyramid": (lambda: PYRAMID(None, X, mask=jnp.ones((2, 8, 8))),
        r"^mask must be of the 2 examples, \[B\]"),
    "grid of a prior": (lambda: PRIORS(None, CODES),
        r"^codes must be \[B, .*4, 4.*got shape \(2, 2, 2, 1\)"),
    "key": (lambda: made(vj.Quantize(vj.ema_vq(4, 2, init=vj.inits.kmeans())), jnp.zeros((9, 2)))(
        None, jnp.zeros((9, 2)), train=True, mutable=[vj.quantizers.STATE]),
        r'^needs rngs=\{"quantize": key\} when train=True: its init or reset'),
    "key of a VAE": (lambda: VAE(None, X, train=True),
        r'^needs rngs=\{"quantize": key\} when train'),
    "dtype": (lambda: vj.Encoder(dtype="float31").init(KEY, X), r"^dtype must be .*got 'float31'"),
    "dtype of an MLP": (lambda: vj.MLP(3, dtype="int8").init(KEY, ROWS), "^dtype must be .*'int8'"),
    "halvings": (lambda: vj.Encoder(downsamplings=-1).init(KEY, X),
        "^downsamplings must be .* >= 0"),
    "halvings of three axes": (lambda: vj.Encoder(downsamplings=(1, 2, 2)).init(KEY, X),
        r"^x must be \[B, 3 spatial axes, 1 channels\], got shape \(2, 8, 8, 1\)"),
    "sides by axis": (lambda: vj.Encoder(downsamplings=(1, 3)).init(KEY, jnp.zeros((2, 8, 4, 1))),
        r"multiples of \(2, 8\), got shape \(2, 8, 4, 1\)"),
    "encoder and quantizer": (lambda: vj.VQVAE(inner(1), vj.vq(6, 5), vj.Decoder(dim=5)),
        "^the encoder gives 4 channels, but the quantizer takes 5"),
    "quantizer and decoder": (lambda: vj.Pyramid(vj.MLP(5), vj.vq(6, 5), vj.Decoder(dim=4)),
        "^the quantizer gives 5 channels, but the decoder takes 4"),
    "encoder and decoder": (lambda: vj.Autoencoder(vj.MLP(5), vj.Decoder(dim=4)),
        "^the encoder gives 5 channels, but the decoder takes 4"),
    "mean and variance": (lambda: vj.VAE(vj.MLP(4), vj.Decoder(dim=4)),
        "^the encoder gives 4 channels, but the VAE, for a mean and a variance, takes 8"),
    "encoders of levels": (lambda: vj.VQVAE2(
        (halving(5, 3), halving(1, 4)), (vj.vq(6, 3),) * 2, (doubling(4, 3), doubling(1, 7))),
        r"^encoders\[1\] gives 4 channels, but encoders\[0\] takes 5"),
    "decoders of levels": (lambda: vj.VQVAE2(
        (halving(4, 3), halving(1, 4)), (vj.vq(6, 3),) * 2, (doubling(4, 3), doubling(1, 3))),
        r"^quantizers\[1\] with decoders\[0\] gives 7 channels, but decoders\[1\] takes 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_what_does_not_fit_is_named_in_the_callers_words(as_users, name):
    call, message = CALLS[name]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_parts_of_a_batch_are_told_of_the_whole(as_users):
    with pytest.raises(ValueError, match=r"got shape \(2, 8, 8, 3\)"):
        PICTURES(None, jnp.zeros((2, 8, 8, 3)))


def test_what_was_not_sent_is_filled_as_the_error_says(as_users):
    indices = np.zeros((2, 3), int)
    with pytest.raises(ValueError, match="constant_values=-1") as error:
        check_indices(jnp.asarray(indices), (5, 5, 5, 5))
    recipe = str(error.value).split("was not sent, ")[1]
    check_indices(eval(recipe, {"jnp": jnp, "indices": indices}), (5, 5, 5, 5))


def test_a_video_is_halved_by_axis_and_trains():
    model = vj.VQVAE(
        vj.Encoder(3, 4, 4, downsamplings=(1, 2, 2), depth=1),
        vj.ema_vq(6, 4),
        vj.Decoder(3, 4, 4, upsamplings=(1, 2, 2), depth=1),
    )
    x = jax.ShapeDtypeStruct((2, 16, 32, 32, 3), jnp.float32)
    call = made(model, x)
    rec, _ = call(None, jnp.zeros(x.shape), train=True, mutable=[vj.quantizers.STATE])
    assert rec.indices.shape == (2, 8, 8, 8, 1) and rec.x.shape == x.shape
    assert call("detokenize", jnp.zeros((2, 8, 8, 8, 1), int)).shape == x.shape
    assert vj.from_json(vj.to_json(model)) == model


EXPLICIT = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
SHARDED = jax.NamedSharding(EXPLICIT, jax.P("data"))


def test_explicit_axes_of_a_mesh_work_or_the_error_says_what_to_do():
    q = vj.ema_vq(5, 3)
    params, state = q.init(KEY)
    z = jax.random.normal(KEY, (8, 6, 3))
    expected, _ = q.apply(params, state, z, train=True)

    def train(z):
        return q.apply(params, state, z, train=True)[0].indices

    with jax.set_mesh(EXPLICIT):
        sharded = jax.device_put(z, SHARDED)
        with pytest.raises(Exception, match=r"axis_types=\(jax\.sharding\.AxisType\.Auto,\)"):
            jax.jit(train)(sharded)
        codes = jax.jit(jax.sharding.auto_axes(train, out_sharding=SHARDED))(sharded)
        np.testing.assert_array_equal(codes, expected.indices)
        with pytest.raises(Exception, match="auto_axes"):
            jax.jit(lambda k: q.decode(params, state, k))(codes)
