"""Converts a quantizer of vector-quantize-pytorch to one of this library, with the same codes.

python -m vqvae_jax.saving.import_torch quantizer.safetensors -o out
python -m vqvae_jax.saving.import_torch model.npz -o out --prefix quantizer. --codebook cosine
python -m vqvae_jax.saving.import_torch fsq.safetensors -o out --levels 8 5 5 5

FILE holds the `state_dict()` of a VectorQuantize, ResidualVQ, SimVQ or FSQ of version 1.32, as
safetensors or .npz. OUT becomes a model for `vqvae_jax.load_model`: a `Quantize` module with its
variables. A state dict does not hold how the codebook was learnt, FSQ's levels, and numbers that
matter only for further training (decay, eps, beta); these are options.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

# The whole library, as users import it; no other module of the library imports this one.
import vqvae_jax as vj
from vqvae_jax.saving.weight_files import read_weights

Weights = Mapping[str, np.ndarray]
CODEBOOKS = ("ema", "cosine", "learnable")


@dataclasses.dataclass(frozen=True)
class Options:
    """Facts about a quantizer that its state dict doesn't hold.

    Attributes:
        prefix: prefix of the names of the quantizer's weights in the file.
        codebook: kind of codebook: default, with use_cosine_sim, or with learnable_codebook.
        levels: levels of an FSQ, which has no weights; () for any other quantizer.
        symmetric: preserve_symmetry of an FSQ.
        decay: decay of the moving averages.
        eps: smoothing constant of the averages, for the codebook "ema".
        beta: commitment_weight.
    """

    prefix: str = ""
    codebook: Literal["ema", "cosine", "learnable"] = "ema"
    levels: tuple[int, ...] = ()
    symmetric: bool = False
    decay: float = 0.8
    eps: float = 1e-5
    beta: float = 1.0


class Imported(NamedTuple):
    """A quantizer and its arrays."""

    quantizer: vj.Quantizer
    params: dict[str, Any]
    state: dict[str, Any]


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line, by default that of the process."""
    given = vars(make_parser().parse_args(args))
    file, output = given.pop("file"), given.pop("output")
    options = Options(**given | {"levels": tuple(given["levels"])})
    try:
        imported, digest = import_torch(file, output, options)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    print(f"{output}: {imported.quantizer}, model {digest[:16]}")


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vqvae_jax.saving.import_torch",
        description="Turn a quantizer of vector-quantize-pytorch into one of this library.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = Options()

    def option(name: str, meaning: str, **more: Any) -> None:
        parser.add_argument(f"--{name}", default=getattr(default, name), help=meaning, **more)

    parser.add_argument("file", type=Path, metavar="FILE", help="state dict, .safetensors or .npz")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT",
        help="folder of the model; made if missing", default=argparse.SUPPRESS,
    )  # fmt: skip
    option("prefix", 'beginning of the names of its weights in the file, as "quantizer."')
    option("codebook", "plain, with use_cosine_sim, or learnable_codebook", choices=CODEBOOKS)
    option("levels", "levels of an FSQ, whose file holds nothing", type=int, nargs="+")
    option("symmetric", "preserve_symmetry of an FSQ", action=argparse.BooleanOptionalAction)
    option("decay", "decay of the moving averages", type=float)
    option("eps", "smoothing of the averages, where --codebook is ema", type=float)
    option("beta", "commitment_weight", type=float)
    return parser


def one_line(error: Exception) -> str:
    """Returns the error's message without line breaks, after the file's name if there is one."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def import_torch(
    file: str | Path, output: str | Path, options: Options | None = None
) -> tuple[Imported, str]:
    """Reads, converts and saves; returns the quantizer and the SHA-256 of the saved model.

    Raises:
        ValueError: if the file is not understood; the error names a weight.
        OSError: if the file can't be read, or `output` can't be written.
    """
    options = options or Options()
    imported = convert(own(read_weights(Path(file)), Path(file), options), options)
    quantizer, params, state = imported
    trees = {"params": {"weights": params}, vj.quantizers.STATE: {"state": state}}
    variables = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}
    return imported, vj.save_model(output, vj.Quantize(quantizer), variables)


def own(weights: Weights, file: Path, options: Options) -> dict[str, np.ndarray]:
    """Returns the weights under the prefix, with the prefix removed from their names."""
    start = len(options.prefix)
    found = {name[start:]: w for name, w in weights.items() if name.startswith(options.prefix)}
    if not found and not options.levels:
        raise ValueError(
            f"{file} holds no weights that begin with {options.prefix!r}, but"
            f" {sorted(weights)[:5]}; an FSQ, which has none, needs --levels"
        )
    return found


def convert(weights: Weights, options: Options) -> Imported:
    """Returns the quantizer to which these weights belong.

    Raises:
        ValueError: if no known quantizer has such weights; the error names a weight.
    """
    if options.levels:
        return fsq(weights, options)
    if "frozen_codebook" in weights:
        return simvq(weights)
    if any(name.startswith("layers.") for name in weights):
        return residual(weights, options)
    return vector(weights, options)


def vector(weights: Weights, options: Options) -> Imported:
    """Converts a VectorQuantize; several heads, each with a codebook, become `grouped`."""
    names = ("initted", "cluster_size", "embed_avg", "embed")
    initted, counts, sums, codebook = take(weights, *(f"_codebook.{name}" for name in names))
    if not initted:
        raise ValueError("its codebook waits for a first batch: initted is false")
    if codebook.ndim != 3 or sums.shape != codebook.shape or counts.shape != codebook.shape[:2]:
        raise ValueError(
            "expected embed and embed_avg [H, K, D] and cluster_size [H, K], got"
            f" {codebook.shape}, {sums.shape} and {counts.shape}"
        )
    arrays = {"codebook": codebook, "counts": counts, "sums": sums, "written": codebook}
    _, size, dim = codebook.shape
    heads = [
        fill(make_vector(size, dim, options), {name: a[h] for name, a in arrays.items()})
        for h in range(len(codebook))
    ]
    return heads[0] if len(heads) == 1 else compose(vj.grouped, heads)


def make_vector(size: int, dim: int, options: Options) -> vj.Quantizer:
    """Makes one head of a VectorQuantize."""
    if options.codebook == "learnable":
        return vj.vq(size, dim, beta=options.beta)
    if options.codebook == "cosine":
        return vj.cosine_ema_vq(size, dim, options.decay, beta=options.beta)
    return vj.ema_vq(size, dim, options.decay, eps=options.eps, beta=options.beta)


def residual(weights: Weights, options: Options) -> Imported:
    """Converts a ResidualVQ; a shared codebook becomes one for each stage."""
    stages: dict[int, dict[str, np.ndarray]] = {}
    for name, w in weights.items():
        match = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
        if match is None:
            raise ValueError(f"{name} is of a ResidualVQ with parts that are not known here")
        stages.setdefault(int(match[1]), {})[match[2]] = w
    if sorted(stages) != list(range(len(stages))):
        raise ValueError(f"expected layers from 0 on without a gap, got {sorted(stages)}")
    return compose(vj.residual, [vector(stages[i], options) for i in range(len(stages))])


def simvq(weights: Weights) -> Imported:
    """Converts a SimVQ with its linear map, which is [out, in] in torch."""
    codebook, w = take(weights, "frozen_codebook", "code_transform.weight")
    if codebook.ndim != 2 or w.shape != (codebook.shape[1],) * 2:
        raise ValueError(
            "expected frozen_codebook [K, D] and code_transform.weight [D, D],"
            f" got {codebook.shape} and {w.shape}"
        )
    return fill(vj.simvq(*codebook.shape), {"codebook": codebook, "map": w.T})


def fsq(weights: Weights, options: Options) -> Imported:
    """Converts an FSQ without projections, which its levels determine."""
    take(weights)
    bound = vj.quantizers.symmetric_bound if options.symmetric else vj.quantizers.arctanh_bound
    return Imported(vj.fsq(options.levels, bound=bound), {}, {})


def take(weights: Weights, *names: str) -> list[np.ndarray]:
    """Returns these weights as float32; raises a ValueError if one is missing or extra."""
    missing, others = set(names) - set(weights), set(weights) - set(names)
    if missing:
        raise ValueError(f"weight {min(missing)} is missing, found {sorted(weights)[:5]}")
    if others:
        raise ValueError(f"{min(others)} is a weight of a part that is not known here")
    for name in names:
        if not np.all(np.isfinite(np.asarray(weights[name], np.float32))):
            raise ValueError(f"{name} is not finite")
    return [np.asarray(weights[name], np.float32) for name in names]


def fill(quantizer: vj.Quantizer, arrays: Weights) -> Imported:
    """Fills the params and state of a quantizer with the arrays, by name."""

    def chosen(path, leaf):
        array = arrays[path[-1].key]
        if array.shape != leaf.shape:
            raise ValueError(f"{path[-1].key} must be {leaf.shape}, got shape {array.shape}")
        return array.astype(leaf.dtype)

    shapes = jax.eval_shape(quantizer.init, jax.random.key(0))
    return Imported(quantizer, *jax.tree_util.tree_map_with_path(chosen, shapes))


def compose(combinator, members: list[Imported]) -> Imported:
    """Combines imported members by a combinator."""
    quantizer = combinator(*(member.quantizer for member in members))
    params = {str(i): member.params for i, member in enumerate(members)}
    return Imported(quantizer, params, {str(i): member.state for i, member in enumerate(members)})


if __name__ == "__main__":
    main()
