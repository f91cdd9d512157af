"""Contestants of the search in PyTorch; each maker takes `Tensors`, as those in JAX take `Inputs`.

PyTorch is imported by the functions, since it may be missing.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from experiments.accelerator.times import torch_side
from experiments.accelerator.times.queued import Ways, Work, built, reason, trial
from experiments.accelerator.times.searches import (
    CDIST,
    COMPILED,
    MODULE,
    PRODUCT,
    TORCH_ARGMIN,
    Inputs,
    row_choices,
)
from experiments.bench.search import Problem


class Tensors(NamedTuple):
    """Rows in several sets, and codes."""

    zs: Sequence[Any]
    e: Any

    @property
    def problem(self) -> Problem:
        """Their sizes."""
        return Problem(*self.zs[0].shape, len(self.e))


def tensors_of(inputs: Inputs) -> Tensors:
    """Returns the same numbers as tensors on PyTorch's device."""
    return Tensors([torch_side.tensor(z) for z in inputs.zs], torch_side.tensor(inputs.e))


def with_torch(makers: Mapping[str, Any], inputs: Inputs) -> tuple[list[Ways], dict[str, str]]:
    """Returns the contestants of PyTorch, and why some don't take part; none without PyTorch."""
    try:
        tensors = tensors_of(inputs)
    except Exception as error:  # a broken installation may raise any error
        return [], {"torch": reason(error)}
    return built(makers, tensors)


def torch_work(
    name: str, find: Callable, tensors: Tensors, rows: int, precision: str, join: Callable
) -> Work:
    """Wraps a function of (z, e), which is called for so many rows at a time."""
    zs, e = tensors

    def start(i: int):
        return join(find(part, e) for part in zs[i % len(zs)].split(rows))

    return Work(name, start, torch_side.wait, rows, partial(torch_side.inference, precision))


def joined(parts: Iterable):
    """Indices of all parts."""
    import torch

    found = list(parts)
    return torch.cat(found) if len(found) > 1 else found[0]


def last(parts: Iterable):
    """The last part: of several products only two are in memory at a time."""
    return collections.deque(parts, maxlen=1).pop()


def tried(name: str, find: Callable, tensors: Tensors, precision: str) -> Ways:
    """A function with each number of rows."""
    choices = row_choices(tensors.problem)
    return [torch_work(name, find, tensors, rows, precision, joined) for rows in choices]


def matrix_argmin(z, e):
    """|e|^2 - 2 z.e and its argmin."""
    return (e.square().sum(1) - 2 * z @ e.T).argmin(1)


def argmin(precision: str, tensors: Tensors) -> Ways:
    """Distance matrix and argmin, one operation after another."""
    return tried(TORCH_ARGMIN[precision], matrix_argmin, tensors, precision)


def compiled(precision: str, tensors: Tensors) -> Ways:
    """Distance matrix and argmin by `torch.compile`, for these codes and any number of rows."""
    import torch

    torch_side.allow_recompilations()
    program = torch.compile(matrix_argmin, dynamic=False)

    def for_any_rows(z, e):  # one program for all numbers of rows: each takes seconds to compile
        torch._dynamo.mark_dynamic(z, 0)
        return program(z, e)

    several = len(row_choices(tensors.problem)) > 1
    find = for_any_rows if several else program
    ways = tried(COMPILED[precision], find, tensors, precision)
    trial(ways[0])
    return ways


def cdist(tensors: Tensors) -> Ways:
    """torch.cdist and argmin."""
    import torch

    def find(z, e):
        return torch.cdist(z, e).argmin(1)

    return tried(CDIST, find, tensors, "float32")


def product(precision: str, tensors: Tensors) -> Ways:
    """The product of rows and codes by cuBLAS; every part of the matrix is written."""
    import torch

    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    cast = Tensors([z.to(dtype) for z in tensors.zs], tensors.e.to(dtype))
    rows = row_choices(tensors.problem)[0]
    return [torch_work(PRODUCT[precision], lambda z, e: z @ e.T, cast, rows, precision, last)]


def module(tensors: Tensors) -> Ways:
    """Forward pass of vector-quantize-pytorch in eval mode, of all rows at a time."""
    import torch
    from vector_quantize_pytorch import VectorQuantize

    n, d, k = tensors.problem
    layer = VectorQuantize(dim=d, codebook_size=k).to(torch_side.device()).eval()
    with torch.no_grad():
        layer.codebook = tensors.e

    def find(z, e):
        return layer(z[None])[1][0]

    if row_choices(tensors.problem)[0] < n:
        raise ValueError("its matrix of distances does not fit into memory")
    return [torch_work(MODULE, find, tensors, n, "float32", joined)]


PRODUCTS = {name: partial(product, precision) for precision, name in PRODUCT.items()}
MAKERS = {
    **PRODUCTS,
    **{name: partial(argmin, precision) for precision, name in TORCH_ARGMIN.items()},
    COMPILED["float32"]: partial(compiled, "float32"),
    CDIST: cdist,
    MODULE: module,
}
"""Makers by the contestant's name."""
MORE = {COMPILED["tf32"]: partial(compiled, "tf32")}
"""Makers that take seconds to compile and are not in the bar."""
