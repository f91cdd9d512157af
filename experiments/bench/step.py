"""Benchmark `step`: one step of training, beside the same model written plainly."""

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax

from experiments.bench import overhead, peers, plain_flax
from experiments.bench.bench_page import (
    LEGEND,
    Part,
    Table,
    compile_text,
    race_json,
    race_table,
    spread_text,
    time_text,
)
from experiments.bench.plain_flax import Sizes
from experiments.bench.race_charts import marks
from experiments.bench.timing import Contestant, Race, race
from vqvae_commands.run.recipe import in_parts
from vqvae_jax import VQVAE, Decoder, Encoder, ema_vq
from vqvae_jax.quantizers.codebooks import underused
from vqvae_jax.quantizers.codebooks.inits import kmeans
from vqvae_jax.training.step import TrainState, init_state, make_train_step

OURS, PLAIN = "vqvae_jax", "plain Flax"
CIFAR = Sizes(side=32, channels=3, width=256, batch=128)  # arXiv:1711.00937, 4.1
MODELS = {
    "default model, 28 x 28, batch 32": Sizes(batch=32),
    "default model, 28 x 28, batch 128": Sizes(batch=128),
    "CIFAR-10 model of the VQ-VAE paper, 32 x 32 x 3, width 256, batch 128": CIFAR,
}
QUICK = {
    "default model, 28 x 28, batch 32": Sizes(batch=32),
    "32 x 32 x 3, width 64, batch 32": CIFAR._replace(width=64, batch=32),
}
OVERHEAD = Sizes(batch=32)
ROUNDS, QUICK_ROUNDS = 15, 5
COMPILER_OPTIONS: dict | None = None  # tests replace it to compile in less time

ABOUT = (
    "One step of Adam on a VQ-VAE whose codebook follows moving averages, on one batch of random "
    "pixels. vqvae_jax is the model that vqvae_commands.train makes: it also resets dead codes, "
    "leaves out examples that are not finite, and measures perplexity. The others are the same "
    "encoder and decoder written plainly, with a distance matrix, argmin and one-hot products, and "
    "do none of this."
)


def run(quick: bool) -> Part:
    """Times a step of all models, and the time of Python in a step."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    found, skipped = peers.importable(("torch",))
    races = []
    for title, sizes in (QUICK if quick else MODELS).items():
        entries, failed = contestants(sizes, found)
        skipped += [line for line in failed if line not in skipped]
        races.append(race(title, entries, rounds, PLAIN, sizes=sizes._asdict()))
    x = pixels(OVERHEAD)
    python = overhead.time_loop(*our_step(OVERHEAD, x, optax.adam(1e-3, b2=0.99)), x, rounds)
    return Part(
        "step",
        ABOUT,
        [*map(step_table, races), overhead.table(python)],
        {"steps": [race_json(r) for r in races], "python": race_json(python)},
        {"step": marks({short(r): {n: r.ratio(n) for n in r.seconds} for r in races}, AXIS)},
        skipped,
    )


AXIS = f"time / {PLAIN}"


def short(result: Race) -> str:
    """Returns a title that fits above a panel."""
    return "{channels} channels, width {width}, batch {batch}".format(**result.sizes)


def contestants(sizes: Sizes, found: Sequence[str]) -> tuple[list[Contestant], list[str]]:
    """Returns the steps, PyTorch's if it is `found`, and a line for each that can't compile."""
    x = pixels(sizes)
    optimizer = optax.adam(1e-3, b2=0.99)
    step, state = plain_flax.make(sizes, x, optimizer)
    entries = [jax_step(OURS, *our_step(sizes, x, optimizer), x), jax_step(PLAIN, step, state, x)]
    skipped = []
    for compiled in (False, True) if "torch" in found else ():
        try:
            entries.append(torch_step(sizes, x, compiled))
        except (
            Exception
        ) as error:  # torch.compile raises many kinds of errors without a C++ compiler
            reason = str(error).strip().splitlines()
            skipped.append(f"torch skipped: {reason[0] if reason else type(error).__name__}")
    return entries, skipped


def pixels(sizes: Sizes) -> np.ndarray:
    """Returns a batch of random images."""
    shape = (sizes.batch, sizes.side, sizes.side, sizes.channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def our_model(sizes: Sizes, dtype: str = "float32") -> VQVAE:
    """Returns the default model of vqvae_commands.train."""
    quantizer = ema_vq(sizes.codes, sizes.dim, init=kmeans(10), reset=underused(0.1))
    inner = {"width": sizes.width, "depth": sizes.depth, "dtype": dtype}
    encoder = Encoder(sizes.channels, sizes.dim, **inner)
    return VQVAE(encoder, quantizer, Decoder(sizes.channels, sizes.dim, **inner))


def our_step(
    sizes: Sizes, x: np.ndarray, optimizer, parts: int | None = None, dtype: str = "float32"
) -> tuple[Callable, TrainState]:
    """Returns the train step of the default model, and its first state."""
    model = our_model(sizes, dtype)
    state = init_state(model, optimizer, jax.random.key(0), x)
    return make_train_step(in_parts(model, parts), optimizer), state


class JaxStep:
    """Calls a compiled step on the state that the last one left."""

    def __init__(self, step: Callable, state, x: np.ndarray):
        self.step, self.state, self.x = step, state, x

    def __call__(self) -> None:
        self.state, metrics = self.step(self.state, self.x)
        jax.block_until_ready((self.state, metrics))


def jax_step(name: str, step: Callable, state, x: np.ndarray) -> Contestant:
    """Compiles a step that may reuse the memory of its state."""
    begun = time.perf_counter()
    program = jax.jit(step, donate_argnums=0).lower(state, x).compile(COMPILER_OPTIONS)
    seconds = time.perf_counter() - begun
    # A copy of the state: the program donates it, and the caller may use its own again.
    return Contestant(name, JaxStep(program, jax.tree.map(jax.numpy.array, state), x), seconds)


def torch_step(sizes: Sizes, x: np.ndarray, compiled: bool) -> Contestant:
    """Returns the step of PyTorch, eager or compiled; compiling happens in the first call."""
    import torch

    from experiments.bench import plain_torch

    step = plain_torch.make(sizes, *[plain_torch.compiled] * compiled)
    pixels = torch.from_numpy(x)
    begun = time.perf_counter()
    step(pixels)
    first = time.perf_counter() - begun
    name = "torch.compile" if compiled else "torch"
    return Contestant(name, lambda: step(pixels).item(), first if compiled else None)


def step_table(result: Race) -> Table:
    """Returns times, examples a second, and times over those of plain Flax."""
    columns = {
        "ms": lambda name: time_text(result.time(name)),
        "images/s": lambda name: f"{result.sizes['batch'] / result.time(name).median:,.0f}",
        AXIS: lambda name: spread_text(result.ratio(name)),
        "compile s": lambda name: compile_text(result, name),
    }
    return race_table(result, f"Train step, {result.title}", columns, LEGEND)
