"""Features that are probed: those of a run's codes, and others to compare them with."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import sparse

from vqvae_commands.code_meaning.coder import Coder
from vqvae_commands.run import code_streams
from vqvae_commands.run.autoencoder import Config
from vqvae_commands.run.code_streams import Maps
from vqvae_commands.run.recipe import make_optimizer
from vqvae_jax import VQVAE2
from vqvae_jax.data.pipeline import batches
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.models.vae import VAE
from vqvae_jax.quantizers.base import RNG
from vqvae_jax.training.loop import run_steps
from vqvae_jax.training.step import init_state, make_train_step

DENSE = 4096  # the largest number of codes whose counts are kept as a full matrix
FIRST = 128  # images of the batch that places the codes of an untrained model
BETA = 0.02  # beta of the VAE: the evidence bound for pixel noise of deviation 0.1

MEANING = {
    "pixels": "the images themselves",
    "histogram": "how often each code occurs in the image",
    "one-hot": "which code stands at which place",
    "z_q": "the codes' vectors at all places",
    "z_e": "the vectors before the quantizer",
    "untrained histogram": "the codes of the same model with random weights",
    "untrained z_e": "the outputs of that model's encoder",
    "VAE means": "means of a VAE with this encoder, as many numbers as z_q (of the finest level)",
}


class Pair(NamedTuple):
    """Images of both sets, or their features."""

    train: Any
    test: Any


def representations(
    coder: Coder, images: Pair, vae: Callable[[], Coder] | None, seed: int
) -> Iterator[tuple[str, Pair]]:
    """Yields (name, features) one after another, because they are large.

    Args:
        coder: the trained model.
        images: uint8 `[N, H, W, C]` of both sets.
        vae: trains a VAE; None where the model's encoder can't be that of a VAE.
        seed: seed of the weights of the untrained model.
    """
    quantizers = code_streams.quantizers(coder.model)
    yield "pixels", Pair(*(flat_rows(np.asarray(preprocess(x))) for x in images))
    seen = Pair(*map(coder.look, images))
    yield "histogram", trimmed(Pair(*(histogram(quantizers, s.indices) for s in seen)))
    yield "one-hot", trimmed(Pair(*(one_hot(quantizers, s.indices) for s in seen)))
    yield "z_q", Pair(*(flat_rows(*s.z_q) for s in seen))
    yield "z_e", Pair(*(flat_rows(*s.z_e) for s in seen))
    new = untrained(coder, images.train, seed)
    seen = Pair(*map(new.look, images))
    yield "untrained histogram", trimmed(Pair(*(histogram(quantizers, s.indices) for s in seen)))
    yield "untrained z_e", Pair(*(flat_rows(*s.z_e) for s in seen))
    if vae is not None:
        trained = vae()
        yield "VAE means", Pair(*(flat_rows(*trained.look(x).z_e) for x in images))


def flat_rows(*arrays: Float[np.ndarray, "N ..."]) -> Float[np.ndarray, "N D"]:
    """Returns the values of all arrays in one row for each example."""
    return np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1).astype(np.float32)


def histogram(quantizers, maps: Maps) -> sparse.csr_matrix | Float[np.ndarray, "N K"]:
    """Counts each code of each stream in each image; sparse where there are many codes."""
    counts = count_columns(*code_columns(quantizers, maps, placed=False))
    return counts.toarray() if counts.shape[1] <= DENSE else counts


def one_hot(quantizers, maps: Maps) -> sparse.csr_matrix:
    """Returns 1 or 0 for each place and each code of its stream: whether it stands there."""
    return count_columns(*code_columns(quantizers, maps, placed=True))


def code_columns(quantizers, maps: Maps, placed: bool) -> tuple[Int[np.ndarray, "N P"], int]:
    """Returns columns of codes, or of codes at places, and the number of columns.

    Example:
        >>> import vqvae_jax as vj
        >>> k = np.array([[[0], [2], [2]]])
        >>> [code_columns([vj.vq(3, 4)], (k,), placed) for placed in (False, True)]
        [(array([[0, 2, 2]]), 3), (array([[0, 5, 8]]), 9)]
    """
    found, total = [], 0
    sizes = code_streams.streams(quantizers)
    for prefix, k in code_streams.by_stream(quantizers, maps).items():
        rows = np.asarray(k).reshape(len(k), -1).astype(np.int64)
        places = np.arange(rows.shape[1]) if placed else np.zeros(rows.shape[1], int)
        found.append(total + places * sizes[prefix] + rows)
        total += sizes[prefix] * (rows.shape[1] if placed else 1)
    return np.concatenate(found, axis=1), total


def count_columns(columns: Int[np.ndarray, "N P"], size: int) -> sparse.csr_matrix:
    """Counts each number in each row."""
    rows = np.repeat(np.arange(len(columns)), columns.shape[1])
    ones = np.ones(columns.size, np.float32)
    return sparse.coo_matrix((ones, (rows, columns.ravel())), (len(columns), size)).tocsr()


def trimmed(pair: Pair) -> Pair:
    """Drops columns that never occur in training, where there are more than `codes.LISTED`.

    A probe gives such columns no weight.
    """
    if pair.train.shape[1] <= code_streams.LISTED:
        return pair
    known = np.unique(pair.train.indices)

    def known_of(x):
        x = x.tocoo()
        # Clipped, because a column beyond the last known one would have no place.
        place = np.searchsorted(known, x.col).clip(max=len(known) - 1)
        kept = known[place] == x.col
        at = x.row[kept], place[kept]
        return sparse.coo_matrix((x.data[kept], at), (x.shape[0], len(known))).tocsr()

    return Pair(*map(known_of, pair))


def untrained(coder: Coder, images: UInt8[np.ndarray, "N H W C"], seed: int) -> Coder:
    """Returns the model with random weights; one batch may place its codes, nothing is trained."""
    state = init_state(coder.model, make_optimizer(Config()), jax.random.key(seed), images)
    _, moved = jax.jit(
        lambda v, x: coder.model.apply(
            v, x, train=True, mutable=list(state.collections), rngs={RNG: jax.random.key(seed)}
        )
    )(state.variables, preprocess(images[:FIRST]))
    return Coder(coder.model, jax.device_get(state._replace(collections=moved).variables))


def vae_of(model) -> VAE | None:
    """Returns a VAE of the finest level's encoder, with as many means as z_q has numbers there.

    None where the encoder or the decoder has no `dim`.
    """
    several = isinstance(model, VQVAE2)
    encoder = model.encoders[-1] if several else model.encoder
    decoder = model.decoders[-1] if several else model.decoder
    if not all(hasattr(part, "dim") for part in (encoder, decoder)):
        return None
    dim = code_streams.quantizers(model)[-1].dim
    return VAE(encoder.clone(dim=2 * dim), decoder.clone(dim=dim), BETA)


def train_vae(
    model: VAE, images: UInt8[np.ndarray, "N H W C"], config: Config, tick: Callable[[int], None]
) -> Coder:
    """Trains a VAE as `vqvae_commands.train` does; calls `tick(step)` after each step."""
    optimizer = make_optimizer(config)
    step = jax.jit(make_train_step(model, optimizer), donate_argnums=0)
    state = init_state(model, optimizer, jax.random.key(config.seed), images)
    given = batches(images, config.seed, config.batch_size)
    state = run_steps(state, step, given, config.steps, {lambda done, *_: tick(done): 1})
    return Coder(model, jax.device_get(state.variables))
