"""Breaks the library on purpose, one change at a time: each must turn the tests red.

python tests/mutants.py            all of them, one on each core
python tests/mutants.py beta psum  those whose name holds one of these words

Prints mutant, failing test and the law behind it; exits with 1 if a mutant survives.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from mutants_generation import GENERATION
from mutants_quantizers import FAMILIES

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """One change: in a file of vqvae_jax, `old` becomes `new`."""

    name: str
    law: str
    file: str
    old: str
    new: str
    tests: str = "tests/quantizers/test_ema.py tests/test_losses.py"


NEAREST, LAWS, STEP = "tests/search/test_search.py", "tests/test_laws.py", "tests/training"
TENSOR_CORES = "tests/search/test_tensor_cores.py"
REPLICAS, RECORDS = "tests/test_replicas.py", "tests/data/test_records.py"
DOMAIN = "tests/data/test_value_range.py"
SUM = "return psum(jax.ops.segment_sum("

MUTANTS = [
    Mutant("another scale under jit", "no wrong codes for data out of the domain", "data/value_range.py",
           "return jnp.where(each, x, jnp.nan)", "return x", DOMAIN),
    Mutant("another scale", "no wrong codes for data out of the domain", "data/value_range.py",
           "if not inside(domain, x).all():", "if False:", DOMAIN),
    Mutant("trained on another scale", "an example is valid if it is in the domain", "training/step.py",
           "finite &= inside(domain, jnp.where(mask[..., None] > 0, x, jnp.nan) if of_samples else x)", "pass", DOMAIN),
    Mutant("a domain in all descriptions", "a model without it keeps its digest", "saving/as_json.py",
           "kept = {k: v for k, v in kept.items() if v is not None or k not in unsaid(type(value))}", "pass", DOMAIN),
    Mutant("farthest code", "k = argmin", "search/scores.py",
           "jnp.where(b < a, b, a)", "jnp.where(b > a, b, a)", NEAREST),
    Mutant("sheet forgotten", "k = argmin", "search/scores.py",
           "jnp.where(near & LAST == 1, near >> 5 << 1, 1)", "jnp.where(near & LAST == 1, 0, 1)", NEAREST),
    Mutant("second nearest code", "certain where no other is near", "search/scores.py",
           "barrier(jnp.min(found, axis=0))", "barrier(jnp.sort(found, axis=0)[1])", NEAREST),
    Mutant("place for sheet", "k = argmin", "search/scores.py",
           "(first >> 1 & LAST >> 1) * found.shape[0] + place", "place * GROUP + (first >> 1 & LAST >> 1)", NEAREST),
    Mutant("a second sheet overlooked", "certain where no other is near", "search/scores.py",
           "near & LAST == 1", "near & LAST >= 1", NEAREST),
    Mutant("a second code overlooked", "certain where no other is near", "search/scores.py",
           "count_and_place >> 16 == 1", "count_and_place >> 16 >= 1", NEAREST),
    Mutant("a second block overlooked", "certain where no other is near", "search/scores.py",
           "sure & (loser > best + slack)", "sure", NEAREST),
    Mutant("not centred", "few rows are unsure, whatever the offset", "search/exact.py",
           "reduce_precision(total / n, 8, 22)", "reduce_precision(0 * total / n, 8, 22)", NEAREST),
    Mutant("low precision", "exact against float64", "search/scores.py",
           "precision=jax.lax.Precision.HIGHEST", "precision=None", NEAREST),
    Mutant("no bound of rounding", "exact against float64", "search/exact.py",
           "return 2 * error.relative", "return 0 * error.relative", NEAREST),
    Mutant("half the bound of rounding", "exact against float64, however products are summed", "search/exact.py",
           "return 2 * error.relative", "return error.relative", NEAREST),
    Mutant("bound without the codes' own length", "exact against float64, however products are summed", "search/exact.py",
           "* (norm + 0.5 * e)", "* norm", NEAREST),
    Mutant("bound for codes that are not far", "the nearest code is no longer than 2 |z| + min |e|", "search/exact.py",
           "2 * norm + shortest)", "norm + shortest)", NEAREST),
    Mutant("a product of a rest forgotten", "exact against float64", "search/tensor_cores.py",
           "sums[0] + dot(z_2, e_1) + dot(z_1, e_2)", "sums[0] + dot(z_2, e_1)", TENSOR_CORES),
    Mutant("the other product of a rest forgotten", "exact against float64", "search/tensor_cores.py",
           "sums[0] + dot(z_2, e_1) + dot(z_1, e_2)", "sums[0] + dot(z_1, e_2)", TENSOR_CORES),
    Mutant("seven bits", "two float16 hold 22 bits", "search/tensor_cores.py",
           "reduce_precision(x, 5, 10)", "reduce_precision(x, 5, 7)", TENSOR_CORES),
    Mutant("half the bound on tensor cores", "exact against float64, whatever they do", "search/tensor_cores.py",
           "(3 * d + 32) * 2.0**-24", "(1.5 * d + 16) * 2.0**-24", TENSOR_CORES),
    Mutant("no slack in a tile", "certain where no other is near", "search/tensor_cores.py",
           "scores <= best + slack", "scores <= best", TENSOR_CORES),
    Mutant("a second code of a tile overlooked", "certain where no other is near", "search/tensor_cores.py",
           "near < 2 * ALONE", "near < 3 * ALONE", TENSOR_CORES),
    Mutant("one unit for all rows", "rows of any scale", "search/tensor_cores.py",
           "unit_of(jnp.max(jnp.abs(z), axis=1, keepdims=True))", "unit_of(jnp.max(jnp.abs(z), keepdims=True))", TENSOR_CORES),
    Mutant("short codes as exact as long ones", "codes of any scale", "search/exact.py",
           "error.least * longest", "0 * longest", TENSOR_CORES),
    Mutant("one row settled for another", "exact against float64", "search/near_ties.py",
           "found.reshape(at.shape)", "found.reshape(at.shape[::-1]).T", NEAREST),
    Mutant("a fifth code overlooked", "exact against float64", "search/near_ties.py",
           "near[:, 0] & ~jnp.any(near[:, FEW:], axis=1)", "near[:, 0]", TENSOR_CORES),
    Mutant("few codes without their order", "lowest index at ties", "search/near_ties.py",
           "jnp.sort(jnp.where(near, k, scores.shape[1]), axis=1)[:, :FEW]", "-jnp.sort(-jnp.where(near, k, -1), axis=1)[:, :FEW]", TENSOR_CORES),
    Mutant("the best score of few", "exact against float64", "search/near_ties.py",
           "best = jnp.where(found, other, best)", "best = k[:, 0]", TENSOR_CORES),
    Mutant("few rows left to the loop", "settled without a loop", "search/exact.py",
           "rows = settle_few(rows, codes)", "pass", TENSOR_CORES),
    Mutant("a code as near in another sheet", "exact against float64", "search/scores.py",
           "limit, zero = least + slack,", "limit, zero = least,", NEAREST),
    Mutant("never in pairs", "exact against float64", "search/exact.py",
           "inexact = slack > ", "inexact = slack > jnp.inf * ", NEAREST),
    Mutant("the farther of a pair", "exact against float64", "search/pairs.py",
           "near_one(e_k - e_j), near_one(", "near_one(e_j - e_k), near_one(", NEAREST),
    Mutant("ties to the highest index", "lowest index at ties", "search/pairs.py",
           "axis=-1) < 0", "axis=-1) <= 0", NEAREST),
    Mutant("NaN code captures rows", "a code that is not finite is never chosen", "search/exact.py",
           "half = jnp.where(usable, 0.5 * jnp.sum(y * y, axis=-1), jnp.inf)", "half = 0.5 * jnp.sum(y * y, axis=-1)", NEAREST),
    Mutant("last of equal distances", "lowest index at ties", "search/exact.py",
           "return jnp.min(jnp.where(squared == least, k, jnp.iinfo(jnp.int32).max), axis=1)",
           "return jnp.max(jnp.where(squared == least, k, -1), axis=1)", NEAREST),
    Mutant("second nearest by differences", "k = argmin", "search/exact.py",
           "least = jnp.min(squared, axis=1, keepdims=True)",
           "least = jnp.sort(squared, axis=1)[:, min(1, squared.shape[1] - 1), None]", NEAREST),
    Mutant("NaN code at a distance", "a code that is not finite is never chosen", "search/exact.py",
           "squared = jnp.where(usable, jnp.sum(jnp.square(from_all), axis=-1), jnp.inf)",
           "squared = jnp.where(usable, jnp.sum(jnp.square(from_all), axis=-1), 1e-6)", NEAREST),
    Mutant("a batch after another", "batches that share a codebook are searched at once", "search/exact.py",
           "if batched[1]:", "if True:", NEAREST),
    Mutant("a table of any size", "constant memory above 2^24 examples", "data/pipeline.py",
           "if n > TABLED:", "if False:", "tests/data/test_shuffling.py"),
    Mutant("a Feistel round lost", "distinct and spread evenly", "data/shuffling.py",
           "ROUNDS = 4", "ROUNDS = 1", "tests/data/test_shuffling.py"),
    Mutant("indices beyond the set", "each index stands at one place", "data/shuffling.py",
           "outside = x >= n", "outside = x > n", "tests/data/test_shuffling.py"),
    Mutant("options of another compiler", "unknown options are dropped", "compiling.py",
           "if refusal(name, value) is None}", "}", "tests/test_compiling.py"),
    Mutant("options unread", "a user's bad option is named", "testing/laws.py",
           "    check_compiler_options(compiler_options)\n", "", "tests/test_compiling.py"),
    Mutant("the machine's fault", "an error of the machine is no broken law", "testing/laws.py",
           "except (jax.errors.JaxRuntimeError, MemoryError, OSError)", "except ZeroDivisionError", "tests/test_compiling.py"),
    Mutant("beta on the codebook term", "beta multiplies the commitment alone", "quantizers/from_codebook.py",
           'made = {"codebook": codebook_loss(*args)}', 'made = {"codebook": beta * codebook_loss(*args)}'),
    Mutant("beta ignored", "beta multiplies the commitment", "quantizers/from_codebook.py",
           'made["commitment"] = beta * commitment_loss(*args)', 'made["commitment"] = commitment_loss(*args)'),
    Mutant("beta on the codebook term of quantize", "beta multiplies the commitment alone", "equations.py",
           '"codebook": codebook_loss(z_e, z_q)', '"codebook": beta * codebook_loss(z_e, z_q)'),
    Mutant("no codebook loss", "|sg[z_e] - z_q|^2", "losses.py",
           "return mean(jnp.square(sg(z_e) - z_q)", "return 0 * mean(jnp.square(sg(z_e) - z_q)"),
    Mutant("codebook loss moves the encoder", "|sg[z_e] - z_q|^2", "losses.py",
           "jnp.square(sg(z_e) - z_q)", "jnp.square(z_e - z_q)"),
    Mutant("commitment without gradient", "|z_e - sg[z_q]|^2", "losses.py",
           "jnp.square(z_e - sg(z_q))", "jnp.square(sg(z_e) - sg(z_q))"),
    Mutant("no straight-through", "dL/dz_e := dL/dz_q", "estimators.py",
           "return exactly(z_q, z_e)\n", "return exactly(z_q, 0 * z_e)\n"),
    Mutant("straight-through inexact in value", "exact in value", "estimators.py",
           "return sg(z_q) + (surrogate - sg(surrogate))", "return surrogate + sg(z_q - surrogate)"),
    Mutant("no Laplace smoothing", "Laplace smoothing as in Haiku", "quantizers/codebooks/moving_averages.py",
           "return (counts + eps) / (total + counts.size * eps) * total", "return jnp.maximum(counts, 1e-12) + 0 * total"),
    Mutant("EMA sums doubled", "M <- decay M + (1 - decay) m", "quantizers/codebooks/storage.py",
           "totals = sum_by_code(rows.z * rows.weights[..., None]", "totals = sum_by_code(2 * rows.z * rows.weights[..., None]"),
    Mutant("decay swapped", "N <- decay N + (1 - decay) n", "quantizers/codebooks/moving_averages.py",
           "return decay * average + (1 - decay) * value", "return (1 - decay) * average + decay * value"),
    Mutant("unhit codes shrink", "a code without rows keeps its value", "quantizers/codebooks/storage.py",
           "moved, weight = hits > 0, jnp.ones((), jnp.float32)", "moved, weight = hits >= 0, jnp.ones((), jnp.float32)"),
    Mutant("mask ignored in EMA sums", "invalid rows change nothing", "quantizers/codebooks/storage.py",
           "sum_by_code(rows.z * rows.weights[..., None]", "sum_by_code(rows.z", "tests/quantizers/test_ema.py"),
    Mutant("mask ignored in EMA counts", "invalid rows change nothing", "quantizers/codebooks/storage.py",
           "        hits = sum_by_code(rows.weights, k, size, axis_name)\n        totals",
           "        hits = sum_by_code(jnp.ones_like(rows.weights), k, size, axis_name)\n        totals",
           "tests/quantizers/test_ema.py"),
    Mutant("mask ignored in losses", "means over valid rows", "losses.py",
           "jnp.square(z_e - sg(z_q)), weights, axis_name", "jnp.square(z_e - sg(z_q)), None, axis_name", LAWS),
    Mutant("NaN rows not masked", "a NaN never reaches the codebook", "reductions.py",
           "w = jnp.where(finite, weights, 0)", "w = weights", "tests/quantizers/test_ema.py"),
    Mutant("state moves without a valid row", "no valid row changes nothing", "quantizers/base.py",
           "jnp.where(condition, sg(n), o)", "sg(n)", LAWS),
    Mutant("counts and sums not reduced", "statistics are of the global batch", "reductions.py",
           f"{SUM}x, indices.ravel(), size), axis_name)", f"{SUM}x, indices.ravel(), size), None)", LAWS),
    Mutant("counts not reduced", "statistics are of the global batch", "quantizers/codebooks/storage.py",
           "        hits = sum_by_code(rows.weights, k, size, axis_name)\n        totals",
           "        hits = sum_by_code(rows.weights, k, size)\n        totals", LAWS),
    Mutant("sums not reduced", "statistics are of the global batch", "quantizers/codebooks/storage.py",
           "totals = sum_by_code(rows.z * rows.weights[..., None], k, size, axis_name)",
           "totals = sum_by_code(rows.z * rows.weights[..., None], k, size)", LAWS),
    Mutant("losses not reduced", "losses are of the global batch", "reductions.py",
           "total, n = psum((jnp.sum(x * w), jnp.sum(w)), axis_name)", "total, n = jnp.sum(x * w), jnp.sum(w)", LAWS),
    Mutant("sampled rows not shared", "states bit-equal between replicas", "reductions.py",
           "return psum(jnp.where(mine[:, None], row, 0), axis_name)", "return jnp.where(mine[:, None], row, 0)", LAWS),
    Mutant("gradient not averaged over replicas", "gradients are of the global batch", "training/step.py",
           "grads if axis_name is None else jax.lax.pmean(grads, axis_name)", "grads", STEP),
    Mutant("gradient with the replica factor", "gradients are of the global batch", "training/step.py",
           "jax.lax.pmean(grads, axis_name)", "jax.lax.psum(grads, axis_name)", STEP),
    Mutant("bad steps not skipped", "a gradient that is not finite changes nothing", "training/step.py",
           "jnp.where(good, new, old)", "new", STEP),
    Mutant("two steps share a key", "each step has its own randomness", "training/step.py",
           "wrap_key_data(state.seed), state.step)", "wrap_key_data(state.seed), state.step // 2)", STEP),
    Mutant("parameters with the key of the steps", "each use has its own randomness", "training/step.py",
           "key_init, key_steps = jax.random.key_data(jax.random.split(key))",
           "key_init = key_steps = jax.random.key_data(key)", STEP),
    Mutant("weights of the first stream alone", "weights count in every stream", "metrics.py",
           "sum_by_code(w, indices[..., q], k, axis_name)", "sum_by_code(jnp.where(q == 0, w, 1.0), indices[..., q], k, axis_name)", "tests/test_metrics.py"),
    Mutant("replicas of the first stream alone", "replicas count in every stream", "metrics.py",
           "sum_by_code(w, indices[..., q], k, axis_name)", "sum_by_code(w, indices[..., q], k, None if q else axis_name)", "tests/test_metrics.py"),
    Mutant("peak below 1 not squared", "PSNR = 10 log10(peak^2 / mse)", "metrics.py",
           "peak**2 / jnp", "max(peak, peak**2) / jnp", "tests/test_metrics.py"),
    Mutant("constants of SSIM for peaks below 1", "(0.01 peak)^2, (0.03 peak)^2", "metrics.py",
           "(0.01 * peak) ** 2, (0.03 * peak) ** 2", "0.01**2 * max(peak, peak**2), 0.03**2 * max(peak, peak**2)", "tests/test_metrics.py"),
    Mutant("perplexity without exp", "perplexity = exp(H)", "metrics.py",
           '"perplexity": jnp.exp(entropy)', '"perplexity": entropy', "tests/test_metrics.py"),
    Mutant("a batch counted into K counters", "costs do not grow with an implicit K", "metrics.py",
           "LISTED = 2**20", "LISTED = 2**30", "tests/models/test_vqvae.py"),
    Mutant("moving averages of JAX's own width", "float32 under jax_enable_x64", "quantizers/codebooks/storage.py",
           "jnp.ones(size, jnp.float32)", "jnp.ones(size)", "tests/test_switches.py"),
    Mutant("noise of JAX's own width", "float32 under jax_enable_x64", "quantizers/relaxed.py",
           "jax.random.gumbel(local_key(key, axis_name), logits.shape, jnp.float32)",
           "jax.random.gumbel(local_key(key, axis_name), logits.shape)", "tests/test_switches.py"),
    Mutant("codes not sent are a code", "-1 is not counted", "metrics.py",
           "(k >= 0).astype(jnp.float32), run", "(k >= -1).astype(jnp.float32), run", "tests/test_metrics.py"),
    Mutant("runs of one replica", "statistics are of the global batch", "metrics.py",
           "k if axis_name is None else jax.lax.all_gather(k, axis_name)", "k", "tests/test_metrics.py"),
    Mutant("decode returns zeros", "decode(indices) = quantized", "reductions.py",
           "jnp.where(known[..., None], codebook[", "0 * jnp.where(known[..., None], codebook[", LAWS),
    Mutant("-1 decodes to the last code", "-1 decodes to 0", "reductions.py",
           "known = (k >= 0) & (k < codebook.shape[0])", "known = k < codebook.shape[0]", LAWS),
    Mutant("dead codes never replaced", "codes that die are re-seeded", "quantizers/codebooks/dead_codes.py",
           "return (reset(counts) | ~is_valid(codebook)) & (hits == 0)",
           "return jnp.zeros_like(hits) > 0", "tests/quantizers/test_codebooks.py tests/quantizers/test_ema.py"),
    Mutant("a chosen code expires", "a code chosen in the batch is not dead", "quantizers/codebooks/dead_codes.py",
           "return (reset(counts) | ~is_valid(codebook)) & (hits == 0)",
           "return reset(counts) | ~is_valid(codebook)", "tests/quantizers/test_codebooks.py tests/quantizers/test_ema.py"),
    Mutant("re-seeded code keeps its sum", "count and sum with the code", "quantizers/codebooks/storage.py",
           '"sums": jnp.where(dead[:, None], fair * fresh, new["sums"])', '"sums": new["sums"]',
           "tests/quantizers/test_codebooks.py tests/quantizers/test_ema.py"),
    Mutant("records from the next shard", "records keep their order", "data/records.py",
           "place, shard = divmod(number, len(files))", "place, shard = number // len(files), (number + 1) % len(files)", RECORDS),
    Mutant("every process loads the whole batch", "shares together are the batch", "data/pipeline.py",
           "batch_indices(seed, step, batch_size, len(data))[mine]", "batch_indices(seed, step, batch_size, len(data))", RECORDS),
    Mutant("records resume at step 0", "a resumed run sees what it would have seen", "data/background.py",
           "range(start, sys.maxsize)", "range(0, sys.maxsize)", RECORDS),
    Mutant("shards of another size are read", "a truncated shard is named", "data/records.py",
           """_same(str(file), f"{shard['bytes']} bytes", found)""", "pass", RECORDS),
    Mutant("records of another shape are read", "a record of another shape is named", "data/records.py",
           '_same(name, f"{self.dtype} {self.shape}", f"{row.dtype} {row.shape}")', "pass", RECORDS),
    Mutant("half a set of records stays", "a stopped writer leaves nothing", "data/writing.py",
           "shutil.rmtree(partial, ignore_errors=True)", "pass", RECORDS),
    Mutant("batches placed out of order", "prefetching keeps the order", "training/parallel.py",
           "yield placed.popleft()", "yield placed.pop()", STEP),
]  # fmt: skip
MUTANTS += [
    Mutant(name, family, file, old, new, tests)
    for family, file, tests, changes in FAMILIES + GENERATION
    for name, old, new in changes
]


def copy_repository(folder: Path) -> None:
    """What the tests need."""
    for name in ("vqvae_jax", "vqvae_commands", "experiments", "tests", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)


def failing_test(folder: Path, mutant: Mutant) -> str | None:
    """Applies the mutant, runs its tests until one fails, and takes it back."""
    path = folder / "vqvae_jax" / mutant.file
    whole = path.read_text()
    if mutant.old not in whole:
        raise SystemExit(f"{mutant.name}: {mutant.file} no longer has the text {mutant.old!r}")
    path.write_text(whole.replace(mutant.old, mutant.new))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    try:
        done = subprocess.run(
            [*command, *mutant.tests.split()], cwd=folder, capture_output=True, text=True, env=env
        )
    finally:
        path.write_text(whole)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return failed[1] if failed else None


def main(words: list[str]) -> int:
    chosen = [m for m in MUTANTS if not words or any(w in m.name for w in words)]
    survivors = []
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(cores) as pool:
        free = Queue()  # copies of the repository, each broken by one mutant at a time
        for i in range(cores):
            copy_repository(Path(name, str(i)))
            free.put(Path(name, str(i)))

        def tried(mutant):
            folder = free.get()
            try:
                return failing_test(folder, mutant)
            finally:
                free.put(folder)

        for mutant, test in zip(chosen, pool.map(tried, chosen), strict=True):
            survivors += [] if test else [mutant.name]
            print(f"{mutant.name:40} {test or 'SURVIVES':70} {mutant.law}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants turned the tests red")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
