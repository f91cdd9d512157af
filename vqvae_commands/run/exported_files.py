"""Export of a model: its tokenize and detokenize for `jax.export`, and how to call them."""

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from vqvae_jax import as_functions
from vqvae_jax.data.readers import DataError
from vqvae_jax.saving.bundle import Bundle
from vqvae_jax.search.scans import BLOCKS, scanned_by

LOAD = """
import jax, jax.export
import numpy as np

def load(name):
    data = bytearray(open(f"{folder}/{{name}}.jaxexport", "rb").read())
    return jax.jit(jax.export.deserialize(data).call)

tokenize, detokenize = load("tokenize"), load("detokenize")
x = np.zeros({shape}, "{dtype}")  # your data, {taken}
codes = tokenize(x)  # {codes}
y = detokenize(codes)  # {given}
"""
TO_PIXELS = """\
pictures = np.clip(np.round((y + 0.5) * 255), 0, 255).astype("uint8")
"""


def check_codec(model) -> None:
    """Raises a DataError unless the model tokenizes and detokenizes."""
    if not (hasattr(model, "tokenize") and hasattr(model, "detokenize")):
        found = type(model).__name__
        raise DataError(f"expected a model with tokenize and detokenize, found {found}")


def export(
    bundle: Bundle, shape: Sequence[int], batch: int | None, platforms: Sequence[str]
) -> dict[str, jax.export.Exported]:
    """Exports tokenize and detokenize, with their weights.

    Args:
        bundle: model and variables.
        shape: the shape of one example.
        batch: the size of a batch; None for any.
        platforms: the platforms on which the functions run.
    """
    f, variables = as_functions(bundle.model), jax.tree.map(jnp.asarray, bundle.variables)
    size = jax.export.symbolic_shape("b")[0] if batch is None else batch
    domain = getattr(bundle.model, "domain", None)
    x = jax.ShapeDtypeStruct((size, *shape), jnp.dtype(domain.dtype if domain else "float32"))
    tokenize = jax.jit(lambda x: f.tokenize(variables, x))
    detokenize = jax.jit(lambda codes: f.detokenize(variables, codes))
    make = partial(jax.export.export, platforms=platforms)
    # A file can't hold the kernel for GPUs, which JAX does not keep stable from version to version.
    with scanned_by(BLOCKS):
        codes = jax.eval_shape(tokenize, x)
        return {"tokenize": make(tokenize)(x), "detokenize": make(detokenize)(codes)}


def shapes_text(arrays: Sequence[jax.core.ShapedArray]) -> str:
    """Dtypes and shapes of the arrays: a VQ-VAE-2 has several maps of codes."""
    return ", ".join(f"{array.dtype} {array.shape}" for array in arrays)


def about(bundle: Bundle) -> str:
    """Describes the data x that the functions take, and the x' that they give."""
    domain = getattr(bundle.model, "domain", None)
    if domain is None:
        return "x: floats in the scale of the training data, which the model does not check.\n"
    taken = "uint8 pixels" if domain.dtype == "uint8" else domain.words
    return (
        f"x: {taken}. Examples that are not finite or out of range get index -1.\n"
        f"x': {domain.answer}.\n"
    )


def lines_to_load(folder: str, exported: Mapping[str, jax.export.Exported], bundle: Bundle) -> str:
    """Lines of Python that load both files from the folder and call them; they need only JAX."""
    tokenize, detokenize = exported["tokenize"], exported["detokenize"]
    (x,), domain = tokenize.in_avals, getattr(bundle.model, "domain", None)
    size, *shape = x.shape
    lines = LOAD.format(
        folder=folder,
        shape=(size if isinstance(size, int) else 2, *shape),
        dtype=x.dtype,
        taken=shapes_text([x]),
        codes=shapes_text(tokenize.out_avals),
        given=shapes_text(detokenize.out_avals),
    )
    return lines + (TO_PIXELS if domain is not None and domain.dtype == "uint8" else "")
