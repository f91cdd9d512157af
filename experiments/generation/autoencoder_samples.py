"""Images from trained autoencoders: z or codes are drawn, then decoded.

Codes are drawn independently or from a learnt prior; z of a VAE from N(0, 1), z of a plain
autoencoder from the mean and deviation of each of its elements over training images.
"""

import jax
import numpy as np
from jaxtyping import Int, UInt8

from experiments.generation.small_prior import Prior, make_fitted
from experiments.sweep.training_budget import compiler_options
from vqvae_commands.run.batchwise import in_batches
from vqvae_jax import VAE, VQVAE
from vqvae_jax.data.scaling import preprocess, to_pixels
from vqvae_jax.priors import free_codes, sample_codes

AT_ONCE = 100  # images in a batch
Images = UInt8[np.ndarray, "n H W C"]


def sample_images(
    model, variables, train: Images, n: int, seed: int, prior: Prior | None, fast: bool = False
) -> dict[str, Images]:
    """Returns n images by the way to draw: "independent", and "prior" for a model with codes.

    Args:
        model: a `VQVAE`, `VAE` or `Autoencoder`.
        variables: variables of the model.
        train: images that the model was trained with.
        n: number of images for each way.
        seed: seed of all draws.
        prior: options of the prior that is fitted to the codes of `train`; None for no prior.
        fast: compiles in less time, to slower programs.
    """
    options = compiler_options(fast)
    if not isinstance(model, VQVAE):
        z = encoded(model, variables, train, "encode", options)
        at = (0.0, 1.0) if isinstance(model, VAE) else (z.mean(0), z.std(0))
        noise = np.random.default_rng(seed).normal(size=(n, *z.shape[1:]))
        drawn = (at[0] + at[1] * noise).astype(np.float32)
        return {"independent": decoded(model, variables, drawn, "decode", options)}
    codes = encoded(model, variables, train, "tokenize", options)
    drawn = {"independent": independent(codes, n, seed)}
    if prior is not None:
        drawn["prior"] = of_prior(prior, model.quantizer.vocab, codes, n, seed, options)
    return {name: decoded(model, variables, k, "detokenize", options) for name, k in drawn.items()}


def independent(
    codes: Int[np.ndarray, "N *grid Q"], n: int, seed: int
) -> Int[np.ndarray, "n *grid Q"]:
    """Draws each code by its frequency at this place and stream, independently of the others."""
    # Each element comes from an image of its own, so that no two codes depend on each other.
    rows = np.random.default_rng(seed).integers(len(codes), size=(n, *codes.shape[1:]))
    return np.take_along_axis(codes, rows, axis=0)


def of_prior(prior: Prior, vocab, codes, n: int, seed: int, options) -> np.ndarray:
    """Draws codes from a Transformer that is fitted to these."""
    module, fit, _ = make_fitted(prior, vocab, codes.shape[1:-1])
    params, given = fit((codes,), seed), free_codes(module, AT_ONCE)
    draw = jax.jit(
        lambda key: sample_codes(key, module, {"params": params}, given), compiler_options=options
    )
    # Batches of one size need one compilation; what exceeds n is cut off.
    keys = jax.random.split(jax.random.key(seed), -(-n // AT_ONCE))
    return np.concatenate([np.asarray(draw(key)) for key in keys])[:n]


def encoded(model, variables, x: Images, method: str, options) -> np.ndarray:
    """Returns z ("encode") or the codes ("tokenize") of images."""
    look = jax.jit(
        lambda batch: model.apply(variables, preprocess(batch), method=method),
        compiler_options=options,
    )
    return in_batches(look, x)


def decoded(model, variables, z: np.ndarray, method: str, options) -> Images:
    """Returns the images of z ("decode") or of codes ("detokenize")."""
    look = jax.jit(
        lambda batch: to_pixels(model.apply(variables, batch, method=method)),
        compiler_options=options,
    )
    return in_batches(look, z)
