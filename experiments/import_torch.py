"""A quantizer of vector-quantize-pytorch as one of this library, with the same codes.

python -m experiments.import_torch quantizer.safetensors -o out
python -m experiments.import_torch model.safetensors -o out --prefix quantizer. --codebook cosine
python -m experiments.import_torch fsq.safetensors -o out --levels 8 5 5 5

FILE holds the `state_dict()` of a VectorQuantize, ResidualVQ, SimVQ or FSQ of version 1.32, as
safetensors or .npz. OUT becomes a model for `vqvae_jax.load_model`: a `Quantize` module with its
variables. What a state dict doesn't say is asked for: how the codebook was learnt, FSQ's levels,
and the numbers that matter for more training only (decay, eps, beta).
"""

import dataclasses
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from safetensors import SafetensorError
from safetensors.numpy import load_file

import vqvae_jax as vj
from experiments.run.command import run

Weights = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Config:
    """Turn a quantizer of vector-quantize-pytorch into one of this library."""

    file: Annotated[Path, tyro.conf.Positional]
    """Its state dict, as .safetensors or .npz."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder of the model; made if missing."""
    prefix: str = ""
    """What the names of its weights begin with in the file, as "quantizer."."""
    codebook: Literal["ema", "cosine", "learnable"] = "ema"
    """How it was made: by default, with use_cosine_sim, or with learnable_codebook."""
    levels: tuple[int, ...] = ()
    """Of an FSQ, whose file holds nothing."""
    symmetric: bool = False
    """Its preserve_symmetry."""
    decay: float = 0.8
    """Of the moving averages."""
    eps: float = 1e-5
    """Of their smoothing, where --codebook is ema."""
    beta: float = 1.0
    """Its commitment_weight."""


class Imported(NamedTuple):
    """A quantizer and its arrays."""

    quantizer: vj.Quantizer
    params: dict[str, Any]
    state: dict[str, Any]


def main(config: Config) -> Imported:
    """Reads, converts and saves; prints the quantizer and where it is."""
    imported = convert(own(read_weights(config.file), config), config)
    quantizer, params, state = imported
    model = vj.Quantize(quantizer)
    trees = {"params": {"weights": params}, vj.STATE: {"state": state}}
    variables = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}
    digest = vj.save_model(config.output, model, variables)
    print(f"{config.output}: {quantizer}, model {digest[:16]}")
    return imported


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name.

    Raises:
        ValueError: if it is neither a whole safetensors file nor a whole .npz.
    """
    with open(path, "rb") as file:
        start = file.read(2)
    if path.suffix != ".npz" and (start == b"PK" or start[:1] == b"\x80"):
        raise ValueError(
            f"{path} is a pickle, which can run code: save the state_dict() by"
            " safetensors.torch.save_file"
        )
    try:
        if path.suffix != ".npz":
            return dict(load_file(path))
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (SafetensorError, zipfile.BadZipFile, ValueError, EOFError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is no safetensors or .npz file: {e}") from None


def own(weights: Weights, config: Config) -> dict[str, np.ndarray]:
    """The weights under the prefix, which is taken off."""
    start = len(config.prefix)
    found = {name[start:]: w for name, w in weights.items() if name.startswith(config.prefix)}
    if not found and not config.levels:
        raise ValueError(
            f"{config.file} holds no weights that begin with {config.prefix!r}, but"
            f" {sorted(weights)[:5]}; an FSQ, which has none, needs --levels"
        )
    return found


def convert(weights: Weights, config: Config) -> Imported:
    """The quantizer that these weights are of.

    Raises:
        ValueError: if they are of none that is known here, naming a weight.
    """
    if config.levels:
        return fsq(weights, config)
    if "frozen_codebook" in weights:
        return simvq(weights)
    if any(name.startswith("layers.") for name in weights):
        return residual(weights, config)
    return vector(weights, config)


def vector(weights: Weights, config: Config) -> Imported:
    """VectorQuantize; several heads with a codebook each become `grouped`."""
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
        fill(make_vector(size, dim, config), {name: a[h] for name, a in arrays.items()})
        for h in range(len(codebook))
    ]
    return heads[0] if len(heads) == 1 else compose(vj.grouped, heads)


def make_vector(size: int, dim: int, config: Config) -> vj.Quantizer:
    """One head of a VectorQuantize."""
    if config.codebook == "learnable":
        return vj.vq(size, dim, beta=config.beta)
    if config.codebook == "cosine":
        return vj.cosine_ema_vq(size, dim, config.decay, beta=config.beta)
    return vj.ema_vq(size, dim, config.decay, eps=config.eps, beta=config.beta)


def residual(weights: Weights, config: Config) -> Imported:
    """ResidualVQ; a shared codebook becomes one for each stage."""
    stages: dict[int, dict[str, np.ndarray]] = {}
    for name, w in weights.items():
        match = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
        if match is None:
            raise ValueError(f"{name} is of a ResidualVQ with parts that are not known here")
        stages.setdefault(int(match[1]), {})[match[2]] = w
    if sorted(stages) != list(range(len(stages))):
        raise ValueError(f"expected layers from 0 on without a gap, got {sorted(stages)}")
    return compose(vj.residual, [vector(stages[i], config) for i in range(len(stages))])


def simvq(weights: Weights) -> Imported:
    """SimVQ with its linear map; torch's maps are [out, in]."""
    codebook, w = take(weights, "frozen_codebook", "code_transform.weight")
    if codebook.ndim != 2 or w.shape != (codebook.shape[1],) * 2:
        raise ValueError(
            "expected frozen_codebook [K, D] and code_transform.weight [D, D],"
            f" got {codebook.shape} and {w.shape}"
        )
    return fill(vj.simvq(*codebook.shape), {"codebook": codebook, "map": w.T})


def fsq(weights: Weights, config: Config) -> Imported:
    """FSQ without projections: the levels say all."""
    take(weights)
    bound = vj.symmetric_bound if config.symmetric else vj.arctanh_bound
    return Imported(vj.fsq(config.levels, bound=bound), {}, {})


def take(weights: Weights, *names: str) -> list[np.ndarray]:
    """The float32 weights of these names; raises a ValueError unless they are all there is."""
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
    """The params and state of a quantizer, each array replaced by the one of its name."""

    def chosen(path, leaf):
        array = arrays[path[-1].key]
        if array.shape != leaf.shape:
            raise ValueError(f"{path[-1].key} must be {leaf.shape}, got shape {array.shape}")
        return array.astype(leaf.dtype)

    shapes = jax.eval_shape(quantizer.init, jax.random.key(0))
    return Imported(quantizer, *jax.tree_util.tree_map_with_path(chosen, shapes))


def compose(combinator, members: list[Imported]) -> Imported:
    """A combinator of imported members."""
    quantizer = combinator(*(member.quantizer for member in members))
    params = {str(i): member.params for i, member in enumerate(members)}
    return Imported(quantizer, params, {str(i): member.state for i, member in enumerate(members)})


if __name__ == "__main__":
    run(main, Config)
