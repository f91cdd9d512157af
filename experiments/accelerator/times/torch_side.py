"""PyTorch's side of a race: its device, its waiting, and the precision of its float32 products."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np

# PyTorch's switches belong to the process, and tasks are prepared several at a time.
FLAGS = threading.RLock()


def load() -> None:
    """Imports PyTorch and its compiler, by one thread: their modules import each other in turn."""
    with FLAGS:
        import torch._dynamo
        import torch._inductor.config  # noqa: F401


def device() -> str:
    """Returns "cuda" where PyTorch finds a GPU, else "cpu"."""
    load()
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def tensor(x: jax.Array):
    """Copies an array to PyTorch's device."""
    import torch

    return torch.from_numpy(np.array(x)).to(device())


def wait(result: object = None) -> None:
    """Waits for all that has been started on PyTorch's device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextlib.contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Products and convolutions of float32 in this precision, "float32" or "tf32"; others wait."""
    import torch

    # The older names of these switches: `torch.compile` still reads them, and fails where the
    # newer ones, `fp32_precision`, were set.
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    with FLAGS:
        before = [switch.allow_tf32 for switch in switches]
        try:
            for switch in switches:
                switch.allow_tf32 = precision == "tf32"
            yield
        finally:
            for switch, value in zip(switches, before, strict=True):
                switch.allow_tf32 = value


@contextlib.contextmanager
def inference(precision: str) -> Iterator[None]:
    """No gradients, and products of float32 in this precision."""
    import torch

    with torch.inference_mode(), float32_products(precision):
        yield


def allow_recompilations(limit: int = 400) -> None:
    """Lets `torch.compile` compile a function so often: after 8 times it would silently give up."""
    import torch

    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.config.accumulated_recompile_limit = limit


def gpu():
    """Returns `torch.cuda` where PyTorch is loaded and finds a GPU, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def allocated_from_now() -> Callable[[], int | None]:
    """Returns a function that returns the peak of allocated bytes since now, less those of now."""
    card = gpu()
    if card is None:
        return lambda: None
    before = card.memory_allocated()
    card.reset_peak_memory_stats()
    return lambda: card.max_memory_allocated() - before


def forget() -> None:
    """Gives the memory that PyTorch keeps for later back to the card: JAX may need it."""
    card = gpu()
    if card is not None:
        card.empty_cache()
