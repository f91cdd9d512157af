"""Bits of an item's codes: under a prior, under a histogram, and under a uniform distribution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vqvae_commands.generation.code_files import Codes
from vqvae_commands.generation.prior_recipe import take_items
from vqvae_commands.run.batchwise import in_batches
from vqvae_jax.metrics import code_counts
from vqvae_jax.priors import MaskedPrior, log_likelihood
from vqvae_jax.priors.losses import CodeBatch
from vqvae_jax.priors.masked import ranks
from vqvae_jax.priors.sampling import log_probs
from vqvae_jax.rates import static_bits

DRAWS = 8  # orders of the estimate of a `MaskedPrior`


def prior_bits(prior, variables, data: CodeBatch, batch_size: int = 100) -> float:
    """Returns the mean -log2 p(codes | condition) of an item; an estimate for a `MaskedPrior`.

    A `MaskedPrior` gives probabilities in any order of the codes. With n uniform in 1, ..., T, and
    n of the T codes masked at random, T / n sum -log2 p(masked codes | the others) is, on the
    average, the bits of an item sent in a random order (arXiv:2110.02037). The estimate is the mean
    of `DRAWS` such values for each item.
    """
    variables = jax.tree.map(jnp.asarray, variables)

    def look(rows):
        key = jax.random.key(rows[0] // len(rows))  # the number of the batch
        return item_bits(prior, variables, take_items(data, rows), key)

    found = in_batches(look, np.arange(len(data.codes)), batch_size)
    return float(np.mean(found, dtype=np.float64))


@partial(jax.jit, static_argnums=0)
def item_bits(prior, variables, batch: CodeBatch, key: PRNGKeyArray) -> Float[Array, "B"]:
    """Returns the bits of each item."""
    if not isinstance(prior, MaskedPrior):
        return -log_likelihood(prior, variables, *batch[:2]) / jnp.log(2.0)
    tokens = batch.codes[0].size

    def of_order(key):
        key_n, key_places = jax.random.split(key)
        b = len(batch.codes)
        n = jax.random.randint(key_n, (b, 1), 1, tokens + 1)
        # Ranks of uniform numbers are a random order, so that exactly n codes are masked.
        masked = ranks(jax.random.uniform(key_places, (b, tokens))) < n
        masked = masked.reshape(batch.codes.shape)
        logits = prior.apply(variables, jnp.where(masked, -1, batch.codes), batch.condition)
        nats = -jnp.sum(log_probs(logits, batch.codes) * masked, axis=range(1, masked.ndim))
        return nats * tokens / n[:, 0] / jnp.log(2.0)

    return jnp.mean(jax.lax.map(of_order, jax.random.split(key, DRAWS)), axis=0)


def uniform(codes: Codes, level: int) -> float:
    """Returns the mean bits of a test item at log2 K for each code; -1 takes none."""
    k, vocab = codes.maps["test"][level], codes.levels[level][1]
    each = np.count_nonzero(k >= 0, axis=tuple(range(k.ndim - 1))) / len(k)
    return float(each @ np.log2(vocab))


def static(codes: Codes, level: int) -> float:
    """Returns the mean bits of a test item, each code by itself under the training histogram."""
    vocab = codes.levels[level][1]
    train, test = (jnp.asarray(codes.maps[split][level]) for split in ("train", "test"))
    return float(np.mean(np.asarray(static_bits(code_counts(vocab, train), test), np.float64)))
