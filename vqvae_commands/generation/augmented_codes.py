"""The codes of changed copies of the training pictures, on which priors are trained as well."""

from functools import partial

import jax
import numpy as np

from vqvae_commands.data.data_options import load_data
from vqvae_commands.generation.code_files import Codes
from vqvae_commands.generation.codes_of_data import encode
from vqvae_commands.quality.classifier import augment
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.scaling import preprocess
from vqvae_jax.saving.bundle import Bundle

Maps = tuple[np.ndarray, ...]


def make_views(config, bundle: Bundle, codes: Codes) -> list[Maps]:
    """The codes of changed copies of the training pictures; no copies of other data."""
    train = load_data(codes.data)[0] if config.views else None
    if train is None or len(train.shape) != 4:
        return []
    if len(train) != (n := len(codes.maps["train"][0])):
        raise DataError(f"{codes.source}: expected {n} items, as many as codes, found {len(train)}")
    change, key = jax.jit(augment), jax.random.key(config.seed)
    return [
        encode(bundle, train, 100, f"view {v + 1} of {config.views}", partial(one, change, key, v))
        for v in range(config.views)
    ]


def one(change, key, view: int, i: int, batch):
    """Batch i of a view; a run that continues gets the one it had before."""
    key = jax.random.fold_in(jax.random.fold_in(key, view), i)
    return change(key, preprocess(batch))
