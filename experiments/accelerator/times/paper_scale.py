"""Section `paper`: each ablation at its paper's scale takes steps at full size on random pixels."""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np

import vqvae_jax as vj
from experiments.ablations import ABLATIONS
from experiments.ablations.settings import Ablation, Setting
from experiments.accelerator.tables import expected, task_table, text, value, verdict
from experiments.accelerator.tasks import Found, Section, Task
from experiments.accelerator.times.queued import Work, seconds_of
from experiments.accelerator.times.step_work import expected_seconds
from experiments.accelerator.times.steps import Chain
from experiments.bench.bench_page import Table
from experiments.bench.plain_flax import Sizes
from experiments.sweep.arms import Arm
from vqvae_commands.run.code_streams import quantizers
from vqvae_commands.run.recipe import make_optimizer
from vqvae_jax.training.step import init_state, make_train_step

SIDES = {"cifar10": 32, "imagenet_resized/64x64": 64}
QUICK = {"width": 8, "depth": 1, "batch_size": 8}
QUICK_NAMES = ("losses",)
SEEDS = 5  # as experiments.ablate runs
QUEUE = 0.2  # seconds of steps that are queued before one waits
FOLDER = tempfile.TemporaryDirectory(prefix="vqvae_jax-")  # removed when the command ends


def tasks(quick: bool) -> list[Task]:
    """Returns a task for each ablation."""
    names = QUICK_NAMES if quick else tuple(ABLATIONS)
    return [
        Task(name, partial(prepare, name, quick), {} if quick else expectation(name))
        for name in names
    ]


def expectation(name: str) -> dict[str, float]:
    """Returns the expected seconds of a step."""
    setting = ABLATIONS[name].paper
    sizes = Sizes(SIDES[setting.data], 3, setting.width, setting.depth, batch=setting.batch_size)
    return {"step": expected_seconds(sizes, "tf32", setting.halvings)}


@cache
def random_pictures(side: int) -> str:
    """Writes random pixels to a temporary file, and returns its path."""
    path = Path(FOLDER.name, f"{side}.npy")
    np.save(path, np.random.default_rng(0).integers(0, 256, (512, side, side, 3), np.uint8))
    return str(path)


def setting_of(ablation: Ablation, quick: bool) -> Setting:
    """Returns the paper's scale with random pictures of the paper's size."""
    data = random_pictures(SIDES[ablation.paper.data])
    return dataclasses.replace(ablation.paper, data=data, **(QUICK if quick else {}))


def largest(arms: Sequence[Arm]) -> tuple[str, object]:
    """Returns name and model of the VQ-VAE that has the most numbers in its codebooks."""
    found = [(arm.name, model) for arm in arms if (model := model_of(arm)) is not None]
    return max(found, key=lambda pair: sum(sum(q.vocab) * q.dim for q in quantizers(pair[1])))


def model_of(arm: Arm):
    """Returns the VQ-VAE of an arm; None if it has another model, or one with private functions."""
    try:
        model = vj.from_json(json.dumps(arm.definition["model"]))
    except (ValueError, KeyError):
        return None
    return model if isinstance(model, vj.VQVAE | vj.VQVAE2) else None


def prepare(name: str, quick: bool) -> Callable[[], Found]:
    """Compiles a step of the ablation's largest arm."""
    setting = setting_of(ABLATIONS[name], quick)
    arms = ABLATIONS[name].make_arms(setting)
    arm, model = largest(arms)
    optimizer = make_optimizer(setting)
    x = np.load(setting.data)[: setting.batch_size]
    start = jax.jit(partial(init_state, model, optimizer, jax.random.key(0)))
    shapes = jax.eval_shape(start, x[:1]), jax.ShapeDtypeStruct(x.shape, x.dtype)
    begun = time.perf_counter()
    step = jax.jit(make_train_step(model, optimizer), donate_argnums=0).lower(*shapes).compile()
    planned = step.memory_analysis()
    known = {
        "arm": arm,
        "arms": len(arms),
        "compile": time.perf_counter() - begun,
        "bytes": planned.temp_size_in_bytes + planned.argument_size_in_bytes,
    }

    def measure() -> Found:
        chain = Chain(step, start(x[:1]), [jax.device_put(x)])
        milliseconds = 1000 * seconds_of(Work(name, chain, jax.block_until_ready), queue=QUEUE)
        hours = len(arms) * SEEDS * setting.steps * milliseconds / 3.6e6
        return {**known, "ms": milliseconds, "hours": hours}

    return measure


def tables(tasks: Sequence[Task], found: Mapping[str, Found]) -> list[Table]:
    """Returns times, memory and hours of each ablation."""
    columns = {
        "arm": value("arm"),
        "ms a step": value("ms"),
        "*expected* ms": expected("step", "{:.3g}", 1000),
        "memory, GB": value("bytes", "{:.1f}", 1e-9),
        "arms": value("arms", "{}"),
        "hours for all": value("hours", "{:,.1f}"),
        "compile s": value("compile", "{:.0f}"),
        "": verdict,
    }
    total = text(sum(f.get("hours") or 0.0 for f in found.values()) or None, "{:,.0f}")
    note = (
        f"{SEEDS} seeds of every arm, at the speed of the arm that is shown, which has the largest "
        f"codebook: {total} hours for those measured. {first_too_large(found)}"
    )
    return [task_table("", tasks, found, columns, note)]


def first_too_large(found: Mapping[str, Found]) -> str:
    """Returns a sentence that names the first configuration which ran out of memory."""
    names = [n for n, f in found.items() if "RESOURCE_EXHAUSTED" in f.get("failure", "")]
    return f"{names[0]} did not fit into memory." if names else ""


SECTION = Section(
    "Paper scale",
    "The configuration of `python -m experiments.ablate NAME --scale paper`, at its full size on "
    "random pixels.",
    30,
    tasks,
    tables,
    together=4,
)
