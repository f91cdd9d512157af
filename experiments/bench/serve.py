"""Benchmark `serve`: images to codes and back, one at a time and in batches."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import peers, plain_flax, step
from experiments.bench.bench_page import (
    LEGEND,
    Part,
    Table,
    race_json,
    race_table,
    rate,
    spread_text,
    time_text,
)
from experiments.bench.plain_flax import Sizes
from experiments.bench.race_charts import marks
from experiments.bench.timing import Contestant, Race, race
from vqvae_commands.run.exported_files import export
from vqvae_jax import as_functions
from vqvae_jax.saving.bundle import Bundle

SIZES = Sizes()
BATCHES = (1, 128)
ROUNDS, QUICK_ROUNDS = 15, 5
OURS, EXPORTED, BARE = "vqvae_jax", "exported, in jax.jit", "exported, without jax.jit"
PLAIN = "plain Flax"

ABOUT = (
    "Images a second of the default model in use. vqvae_jax: as_functions(model), jitted. "
    "Exported: what vqvae_commands.export writes, for any batch, read back and called as its help "
    "says, in jax.jit, and without. Plain Flax: the same encoder and decoder written plainly, "
    "distance matrix and argmin, e[k]. All take and give float32 pixels and int32 codes."
)
Codec = tuple[Callable, Callable]
"""Functions (tokenize, detokenize)."""


def run(quick: bool) -> Part:
    """Times both directions at each batch size."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    found, skipped = peers.importable(("flatbuffers",))  # without it nothing can be exported
    contestants = codecs(bool(found))
    races = []
    for batch in BATCHES:
        x = step.pixels(SIZES._replace(batch=batch)) / np.float32(255) - np.float32(0.5)
        codes = np.asarray(contestants[OURS][0](x))
        races.append(speed(f"tokenize, batch {batch}", x, contestants, 0, rounds))
        races.append(speed(f"detokenize, batch {batch}", codes, contestants, 1, rounds))
    panels = {r.title: {name: r.ratio(name) for name in r.seconds} for r in races}
    tables, data = [*map(table, races)], {"races": [race_json(r) for r in races]}
    return Part("serve", ABOUT, tables, data, {"serve": marks(panels, AXIS)}, skipped)


AXIS = f"time / {OURS}"


def codecs(exporting: bool = True) -> dict[str, Codec]:
    """Returns the contestants: tokenize and detokenize of each, by name."""
    model, example = step.our_model(SIZES), step.pixels(SIZES._replace(batch=1)) / np.float32(255)
    variables = jax.jit(model.init)(jax.random.key(0), example)
    f = as_functions(model)
    both = jax.jit(f.tokenize), jax.jit(f.detokenize)
    ours = {OURS: tuple(partial(function, variables) for function in both)}
    exported = through_files(Bundle(model, variables, ""), example) if exporting else {}
    return ours | exported | {PLAIN: plain_codec(SIZES)}


def through_files(bundle: Bundle, example: np.ndarray) -> dict[str, Codec]:
    """Returns the contestants that are exported and read back."""
    exported = export(bundle, example.shape[1:], None, platforms())
    calls = [jax.export.deserialize(e.serialize()).call for e in exported.values()]
    return {EXPORTED: tuple(map(jax.jit, calls)), BARE: tuple(calls)}


def platforms() -> tuple[str, ...]:
    """Returns the platform at hand, by its name in `jax.export`."""
    return (jax.export.default_export_platform(),)


def plain_codec(sizes: Sizes) -> Codec:
    """Returns a plain codec: encoder, distance matrix and argmin; e[k] and decoder."""
    encoder, decoder = plain_flax.Encoder(sizes), plain_flax.Decoder(sizes)
    keys = jax.random.split(jax.random.key(0), 3)
    e = jax.random.normal(keys[0], (sizes.codes, sizes.dim))
    x = jnp.zeros((1, sizes.side, sizes.side, sizes.channels))
    z, encoder_variables = encoder.init_with_output(keys[1], x)
    decoder_variables = decoder.init(keys[2], z)

    @jax.jit
    def tokenize(variables, e, x):
        z = encoder.apply(variables, x)
        return peers.plain_nearest(z.reshape(-1, sizes.dim), e).reshape(z.shape[:-1])

    @jax.jit
    def detokenize(variables, e, k):
        return decoder.apply(variables, e[k[..., 0]])

    return partial(tokenize, encoder_variables, e), partial(detokenize, decoder_variables, e)


def speed(title: str, array: np.ndarray, codecs: Mapping[str, Codec], i: int, rounds: int) -> Race:
    """Times one direction, from an array of the host to one that is ready on the device."""
    entries = [
        Contestant(name, lambda call=both[i]: jax.block_until_ready(call(array)))
        for name, both in codecs.items()
    ]
    return race(title, entries, rounds, OURS, sizes={"batch": len(array)})


def table(result: Race) -> Table:
    """Returns images a second, times, and times over ours."""
    columns = {
        "images/s": lambda name: spread_text(rate(result, name), "{:,.0f}"),
        "ms": lambda name: time_text(result.time(name)),
        AXIS: lambda name: spread_text(result.ratio(name)),
    }
    return race_table(result, result.title, columns, LEGEND)
