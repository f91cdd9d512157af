"""Section `step`: times of a train step beside the same model in PyTorch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from experiments.accelerator import card
from experiments.accelerator.tasks import Found, Section, Task
from experiments.accelerator.times import step_tables, torch_side
from experiments.accelerator.times.queued import let_go, line_up, race_queued, reason
from experiments.accelerator.times.searches import TITLES
from experiments.accelerator.times.step_work import expected_seconds, operations
from experiments.accelerator.times.steps import COMPILED, MAKERS, OURS, SCAN, TORCH, Prepared
from experiments.bench.bench_page import race_json
from experiments.bench.plain_flax import Sizes
from experiments.bench.step import CIFAR
from vqvae_jax.compiling import fast_compile

SMALL, PAPER, LARGE, TINY = "28 x 28", "CIFAR-10", "ImageNet, 128 x 128", "8 x 8"
MODELS = {
    PAPER: CIFAR,
    SMALL: Sizes(batch=128),
    LARGE: CIFAR._replace(side=128),  # arXiv:1711.00937, 4.1: 32 x 32 codes of 512
    TINY: Sizes(side=8, width=8, depth=1, codes=16, dim=8, batch=4),
}


class Step(NamedTuple):
    """A measurement."""

    model: str
    precision: str
    who: str

    @property
    def name(self) -> str:
        """Name of the task."""
        return f"{self.model}, {TITLES[self.precision]}: {self.who}"


# Those that belong to one comparison are neighbours: time may be up after any of them.
STEPS = [
    *(Step(PAPER, "bfloat16", who) for who in (OURS, COMPILED, TORCH, SCAN)),
    *(Step(SMALL, "bfloat16", who) for who in (OURS, SCAN)),
    Step(PAPER, "tf32", OURS),
    Step(LARGE, "bfloat16", OURS),
    Step(PAPER, "tf32", TORCH),
    Step(PAPER, "float32", OURS),
    *(Step(SMALL, "bfloat16", who) for who in (COMPILED, TORCH)),
    Step(LARGE, "bfloat16", TORCH),
    Step(SMALL, "tf32", OURS),
    Step(LARGE, "bfloat16", COMPILED),
    Step(PAPER, "tf32", COMPILED),
    Step(PAPER, "float32", TORCH),
    Step(LARGE, "tf32", OURS),
    Step(SMALL, "float32", OURS),
]
QUICK = [Step(TINY, "bfloat16", who) for who in (OURS, TORCH, SCAN)]
ROUNDS, QUICK_ROUNDS = 5, 2
QUEUE = 0.1  # seconds of steps that are queued

ABOUT = (
    "One step of Adam on batches of 128: the default model, and those of the VQ-VAE paper for "
    "CIFAR-10 and for ImageNet. Batches are on the card, and steps are queued for 0.1 s before one "
    "waits; *blocked* waits for each step. In float32 products have full precision, in TF32 10 "
    "bits. Ours also resets dead codes, leaves out examples that are not finite, measures "
    "perplexity, and searches codes in float32 always; PyTorch's autocast searches in bfloat16. "
    "The bar: in bfloat16 `torch.compile` takes at least as long as ours."
)


def tasks(quick: bool) -> list[Task]:
    """Returns the tasks, the most worthy first."""
    rounds, make_options = (QUICK_ROUNDS, fast_compile) if quick else (ROUNDS, lambda: None)
    return [
        Task(
            step.name,
            partial(prepare, step, rounds, make_options),
            {"step": expected_seconds(MODELS[step.model], step.precision)},
        )
        for step in (QUICK if quick else STEPS)
    ]


def prepare(step: Step, rounds: int, make_options: Callable[[], Mapping | None]):
    """Compiles; returns the function that measures, or says why PyTorch can't take part."""
    try:
        ready = MAKERS[step.who](MODELS[step.model], step.precision, make_options())
    except Exception as error:  # PyTorch may be missing or broken, or lack a C compiler
        if step.who in (OURS, SCAN):
            raise
        skipped = {"skipped": reason(error)}
        return lambda: skipped

    def measure() -> Found:
        with let_go(ready.ways):
            return timed(step, ready, rounds)

    return measure


def timed(step: Step, ready: Prepared, rounds: int) -> dict[str, Any]:
    """Times steps that are queued, and steps that are waited for."""
    line, sizes = line_up([ready.ways]), MODELS[step.model]._asdict()
    grown = torch_side.allocated_from_now()
    queued = race_queued(step.name, line, rounds, sizes, QUEUE)
    blocked = race_queued(step.name, line, rounds, sizes, queue=0.0)
    of_call = {"step": queued.time(step.who).median, "blocked": blocked.time(step.who).median}
    return {
        **numbers(step, {name: t / ready.steps for name, t in of_call.items()}),
        "memory": grown() if ready.memory is None else ready.memory,
        "compile": ready.compile_seconds,
        "trials": line.trials,
        "races": [race_json(queued), race_json(blocked)],
    }


def numbers(step: Step, seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the seconds of a step, images a second, and the share of the card's rate."""
    sizes, one = MODELS[step.model], seconds["step"]
    share = operations(sizes) / one / getattr(card.rates(), step.precision)
    return {**seconds, "images": sizes.batch / one, "share": share}


SECTION = Section("Train step", ABOUT, 60.0, tasks, step_tables.tables, together=4)
