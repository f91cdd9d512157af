"""Vector quantizers whose codes are a function of underlying codes: cosine, affine, SimVQ."""

from vqvae_jax.checks import Number
from vqvae_jax.estimators import Estimator, straight_through, unit
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.quantizers.codebooks.dead_codes import Reset
from vqvae_jax.quantizers.codebooks.inits import Init, normal, uniform
from vqvae_jax.quantizers.codebooks.storage import ema, fixed, gradient
from vqvae_jax.quantizers.codebooks.transforms import Transform, affine, linear, mapped, unit_codes
from vqvae_jax.quantizers.combinators.wrappers import normalize
from vqvae_jax.quantizers.from_codebook import codebook_vq
from vqvae_jax.saving.describe import described


@described
def cosine_vq(
    size: int,
    dim: int,
    *,
    beta: Number = 0.25,
    init: Init = normal(),  # noqa: B008
    reset: Reset = None,
    estimator: Estimator = straight_through,
) -> Quantizer:
    """`vq` by cosine similarity, with codes and rows of length 1 (ViT-VQGAN, arXiv:2110.04627).

    z_e / |z_e| is quantized to e_k / |e_k| with k = argmax_j cos(z_e, e_j). The losses compare
    these two, and `quantized` lies on the unit sphere. All arguments are those of `vq`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> q = cosine_vq(8, 2)
        >>> params, state = q.init(jax.random.key(0))
        >>> out, _ = q.apply(params, state, jnp.array([[30.0, 40.0]]))
        >>> jnp.linalg.norm(out.quantized).round(4)
        Array(1., dtype=float32)
    """
    codebook = unit_codes(gradient(size, dim, init=init, reset=reset))
    return normalize(codebook_vq(codebook, beta=beta, estimator=estimator), unit)


@described
def cosine_ema_vq(
    size: int,
    dim: int,
    decay: Number = 0.99,
    *,
    beta: Number = 0.25,
    init: Init = normal(),  # noqa: B008
    reset: Reset = None,
    estimator: Estimator = straight_through,
) -> Quantizer:
    """`cosine_vq` whose codes are the directions of moving averages of the normalised rows.

    The arguments are those of `ema_vq`, without eps.

    Example:
        >>> cosine_ema_vq(8, 2, decay=0.9).vocab
        (8,)
    """
    codebook = unit_codes(ema(size, dim, decay, init=init, reset=reset))
    return normalize(codebook_vq(codebook, beta=beta, estimator=estimator), unit)


@described
def affine_vq(
    size: int,
    dim: int,
    *,
    rate: Number = 10.0,
    beta: Number = 0.25,
    init: Init = uniform(),  # noqa: B008
    reset: Reset = None,
    estimator: Estimator = straight_through,
) -> Quantizer:
    """`vq` with codes (1 + rate s) e_j + rate b, s and b [D] learnt and shared (arXiv:2305.08842).

    A code that no row chooses moves with the others. To use statistics of the rows instead of
    gradients, take `codebook_vq(moment_matched(gradient(...)))`. The paper's other two methods are
    the estimator `synchronized` and `alternated`.

    Args:
        size, dim, beta, init, reset, estimator: as in `vq`.
        rate: factor of s and b, which makes them learn faster than the codes.

    Example:
        >>> import jax
        >>> sorted(affine_vq(8, 2).init(jax.random.key(0))[0])
        ['inner', 'scale', 'shift']
    """
    codebook = affine(gradient(size, dim, init=init, reset=reset), rate)
    return codebook_vq(codebook, beta=beta, estimator=estimator)


@described
def simvq(
    size: int,
    dim: int,
    *,
    beta: Number = 0.25,
    init: Init | None = None,
    transform: Transform | None = None,
    estimator: Estimator = straight_through,
) -> Quantizer:
    """SimVQ: a frozen random codebook times a learnt linear map (arXiv:2411.02038).

    e_j = c_j W with c_j ~ N(0, 1 / D) fixed: every gradient step moves all codes, so none dies.
    params["map"] is W `[D, D]`, initially the identity; state["inner"]["codebook"] is c `[K, D]`.

    Args:
        size, dim, beta, estimator: as in `vq`.
        init: initializer of c, None for `normal(dim ** -0.5)`.
        transform: map in place of `linear(dim)`, such as a `Transform` of a Flax module. For codes
            c whose width is not D use `codebook_vq(mapped(fixed(size, C), linear(dim)))`.

    Example:
        >>> import jax
        >>> params, state = simvq(8, 2).init(jax.random.key(0))
        >>> params["map"].shape, state["inner"]["codebook"].shape
        ((2, 2), (8, 2))
    """
    codes = fixed(size, dim, init or normal(dim**-0.5))
    return codebook_vq(mapped(codes, transform or linear(dim)), beta=beta, estimator=estimator)
