"""Benchmark `sampling`: codes drawn from priors, with a cache of keys and values and without."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax

from experiments.bench.bench_page import (
    LEGEND,
    Part,
    Table,
    compile_text,
    race_json,
    race_table,
    rate,
    spread_text,
    time_text,
)
from experiments.bench.race_charts import marks
from experiments.bench.timing import Contestant, Race, compiled, race
from vqvae_jax.priors import (
    MaskedPrior,
    PixelCNN,
    TransformerPrior,
    cached,
    free_codes,
    sample_codes,
    sample_masked,
    uncached,
)

CACHED, UNCACHED = "cached", "uncached"
MASKED, PIXELCNN = "MaskedPrior, 8 steps", "PixelCNN"


class PriorSizes(NamedTuple):
    """Sizes of a problem: codes of one stream on a square grid."""

    side: int
    batch: int = 16
    codes: int = 512
    width: int = 128
    depth: int = 4
    heads: int = 4
    pixelcnn_depth: int = 8  # 0: it does not take part
    rounds: int = 9


PROBLEMS = (
    PriorSizes(7),
    PriorSizes(16, pixelcnn_depth=0, rounds=3),
)  # a minute a batch without a cache
QUICK = (PriorSizes(7, rounds=3),)
BARS = {7: 4.0, 16: 10.0}  # least speed-up by the cache, by the side of the grid

ABOUT = (
    "Codes drawn from priors with random weights: a batch in one compiled program. Cached and "
    "uncached are the same loop over all codes (sample_codes) of the same TransformerPrior, one "
    "with keys and values kept, one with all logits computed again for each code. MaskedPrior is a "
    "bidirectional Transformer of the same size, whose codes are drawn in 8 forward passes; "
    "PixelCNN is uncached."
)


def run(quick: bool) -> Part:
    """Times the contestants on each grid."""
    races = [
        race(sizes_text(sizes), contestants(sizes), sizes.rounds, CACHED, sizes=sizes._asdict())
        for sizes in (QUICK if quick else PROBLEMS)
    ]
    panels = {r.title: {name: r.ratio(name) for name in r.seconds} for r in races}
    data = {"races": [race_json(r) for r in races]}
    return Part("sampling", ABOUT, [*map(table, races)], data, {"sampling": marks(panels, AXIS)})


AXIS = f"time / {CACHED}"


def sizes_text(sizes: PriorSizes) -> str:
    """Returns the sizes in words."""
    return (
        f"{sizes.side} x {sizes.side} = {sizes.side**2} codes of {sizes.codes}, batch {sizes.batch}"
    )


def contestants(sizes: PriorSizes) -> list[Contestant]:
    """Returns the ways to draw codes for one problem."""
    size = {"width": sizes.width, "depth": sizes.depth, "heads": sizes.heads}
    problem = (sizes.codes,), (sizes.side, sizes.side)
    causal = TransformerPrior(*problem, **size)
    entries = [
        contestant(CACHED, partial(sample_codes, stepper=cached), causal, sizes.batch),
        contestant(UNCACHED, partial(sample_codes, stepper=uncached), causal, sizes.batch),
        contestant(MASKED, sample_masked, MaskedPrior(*problem, **size), sizes.batch),
    ]
    if sizes.pixelcnn_depth:
        prior = PixelCNN(*problem, width=sizes.width, depth=sizes.pixelcnn_depth)
        draw = partial(sample_codes, stepper=uncached)
        entries.append(contestant(PIXELCNN, draw, prior, sizes.batch))
    return entries


def contestant(name: str, draw: Callable, prior, batch: int) -> Contestant:
    """Compiles the drawing of a batch of codes, none of which is given."""
    given, key = free_codes(prior, batch), jax.random.key(0)
    variables = jax.jit(prior.init)(key, given[:1])
    return compiled(name, lambda *args: draw(args[0], prior, *args[1:]), key, variables, given)


def table(result: Race) -> Table:
    """Returns times, images a second, and times over those with a cache."""
    columns = {
        "ms": lambda name: time_text(result.time(name)),
        "images/s": lambda name: spread_text(rate(result, name), "{:,.1f}"),
        AXIS: lambda name: spread_text(result.ratio(name)),
        "compile s": lambda name: compile_text(result, name),
    }
    note, bar = LEGEND, BARS.get(result.sizes["side"])
    if bar:
        found = spread_text(result.ratio(UNCACHED), "{:.1f}")
        note += f" The cache must make sampling {bar:g} times as fast at least: it is {found}."
    return race_table(result, result.title, columns, note)
