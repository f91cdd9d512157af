"""Vector quantizers with a gradient codebook, `vq`, or an EMA codebook, `ema_vq`, and variants."""

from vqvae_jax.checks import Number
from vqvae_jax.estimators import Estimator, straight_through
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.quantizers.codebooks.assignments import sampled, sinkhorn
from vqvae_jax.quantizers.codebooks.dead_codes import Reset
from vqvae_jax.quantizers.codebooks.inits import Init, normal, uniform
from vqvae_jax.quantizers.codebooks.storage import ema, gradient
from vqvae_jax.quantizers.from_codebook import codebook_vq
from vqvae_jax.saving.describe import described


@described
def vq(
    size: int,
    dim: int,
    *,
    beta: Number = 0.25,
    init: Init = uniform(),  # noqa: B008
    reset: Reset = None,
    estimator: Estimator = straight_through,
) -> Quantizer:
    """VQ-VAE's quantizer with a codebook learnt by gradient (arXiv:1711.00937).

    k = argmin_j |z_e - e_j|_2, z_q = e_k; losses |sg[z_e] - z_q|^2 + beta |z_e - sg[z_q]|^2, each a
    mean over elements. The codes are params["codebook"] `[K, D]`, plus state["offset"] where data
    moves them too (`init` from a batch, `reset`).

    Args:
        size: K.
        dim: D.
        beta: weight of the commitment term.
        init: `uniform()`, `normal()`, `given(e)`, or from the first batch: `samples()`, `kmeans()`.
        reset: None, or a function that marks dead codes by their moving-average counts (decay
            0.99), such as `underused(0.1)`; rows of the batch replace them, unless the batch chose
            them.
        estimator: gradient estimator `(z_e, z_q) -> z_q`: `straight_through`, `rotation_trick`,
            `synchronized()`.

    `codebook_vq(gradient(...))` has more options. Training needs a key if `init` uses the first
    batch or dead codes are reset. A code that is not finite is never chosen, and is counted in
    metrics["invalid_codes"].

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> q = vq(size=4, dim=2)
        >>> params, state = q.init(jax.random.key(0))
        >>> out, _ = q.apply(params, state, jnp.ones((3, 2)))
        >>> bool((q.decode(params, state, out.indices) == out.quantized).all())
        True
    """
    codebook = gradient(size, dim, init=init, reset=reset)
    return codebook_vq(codebook, beta=beta, estimator=estimator)


@described
def ema_vq(
    size: int,
    dim: int,
    decay: Number = 0.99,
    *,
    eps: Number = 1e-5,
    beta: Number = 0.25,
    init: Init = uniform(),  # noqa: B008
    reset: Reset = None,
    estimator: Estimator = straight_through,
) -> Quantizer:
    """VQ-VAE's quantizer with a codebook of exponential moving averages (EMA).

    N_j <- decay N_j + (1 - decay) n_j, M_j <- decay M_j + (1 - decay) m_j, e_j = M_j / N'_j, where
    n_j rows of the batch, with sum m_j, chose code j (arXiv:1711.00937, appendix A.1); see `ema`.
    The loss is beta |z_e - sg[z_q]|^2, a mean over elements. Params are empty; state holds
    "codebook", "counts" N and "sums" M.

    Args:
        size: K.
        dim: D.
        decay: decay of the averages, in [0, 1).
        eps: constant of the Laplace smoothing.
        beta, init, reset, estimator: as in `vq`; `reset` sees the counts N.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> q = ema_vq(size=2, dim=1, decay=0.5, init=normal())
        >>> params, state = q.init(jax.random.key(0))
        >>> for _ in range(20):
        ...     out, state = q.apply(params, state, jnp.array([[-1.0], [3.0]]), train=True)
        >>> q.decode(params, state, out.indices).round(1)
        Array([[-1.],
               [ 3.]], dtype=float32)
    """
    codebook = ema(size, dim, decay, eps=eps, init=init, reset=reset)
    return codebook_vq(codebook, beta=beta, estimator=estimator)


@described
def stochastic_vq(
    size: int,
    dim: int,
    *,
    temperature: Number = 1.0,
    top: int | None = None,
    beta: Number = 0.25,
    init: Init = uniform(),  # noqa: B008
    reset: Reset = None,
    estimator: Estimator = straight_through,
) -> Quantizer:
    """`vq` whose codes are sampled in training: k ~ softmax_j(-|z_e - e_j|^2 / temperature).

    RQ-VAE, arXiv:2203.01941, section 3.1. Training needs a key, on which the codes depend; eval
    mode takes the nearest codes. For an EMA codebook use `codebook_vq(ema(...), assign=sampled())`.

    Args:
        size, dim, beta, init, reset, estimator: as in `vq`.
        temperature: > 0, in units of squared distance.
        top: number of nearest codes to sample from, None for all.

    Raises:
        ValueError: if an argument is out of range, or training has no key.

    Example:
        >>> stochastic_vq(8, 2, temperature=0.5).stochastic
        True
    """
    codebook, assign = gradient(size, dim, init=init, reset=reset), sampled(temperature, top)
    return codebook_vq(codebook, beta=beta, assign=assign, estimator=estimator)


@described
def sinkhorn_vq(
    size: int,
    dim: int,
    *,
    epsilon: Number = 0.1,
    iterations: int = 5,
    beta: Number = 0.25,
    init: Init = normal(),  # noqa: B008
    estimator: Estimator = straight_through,
) -> Quantizer:
    """`vq` whose codes are assigned by optimal transport in training (OptVQ, arXiv:2412.15195).

    Every code takes an equal part of each batch, so none dies. The assignment is that of
    `sinkhorn`, in which a row's code depends on the whole batch; eval mode takes the nearest code.

    Args:
        size, dim, beta, init, estimator: as in `vq`.
        epsilon: weight of the entropy, as in `sinkhorn`.
        iterations: number of iterations of Sinkhorn's algorithm.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> sinkhorn_vq(8, 2, epsilon=0.05).vocab
        (8,)
    """
    assign = sinkhorn(epsilon, iterations)
    return codebook_vq(
        gradient(size, dim, init=init), beta=beta, assign=assign, estimator=estimator
    )
