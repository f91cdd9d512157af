"""Tables of section `step`."""

from collections.abc import Mapping, Sequence

from experiments.accelerator.tables import MISSING, expected, met, task_table, text, value, verdict
from experiments.accelerator.tasks import Found, Task
from experiments.accelerator.times.steps import COMPILED, OURS, SCAN, SCANNED, TORCH
from experiments.bench.bench_page import Table

BAR = 1.0


def tables(tasks: Sequence[Task], found: Mapping[str, Found]) -> list[Table]:
    """Returns a table of models, and one of all tasks."""
    return [comparison(tasks, found), task_table("All steps", tasks, found, COLUMNS, NOTE)]


COLUMNS = {
    "expected ms": expected("step", "{:.3g}", 1000),
    "ms": value("step", "{:.3g}", 1000),
    "blocked ms": value("blocked", "{:.3g}", 1000),
    "images/s": value("images", "{:,.0f}"),
    "share of the card's rate": value("share", "{:.1%}"),
    "MB": value("memory", "{:,.0f}", 1e-6),
    "compile s": value("compile", "{:.1f}"),
    "": lambda task, found: found.get("skipped") or verdict(task, found),
}
NOTE = (
    "Expected: operations of the convolutions and the search at 40 % of the card's rate, or the "
    "start of 300 kernels if longer. MB: beside state and batches, of ours as XLA plans it, of "
    "PyTorch as it allocates. Compile s: while other tasks compile. PyTorch without "
    f"`torch.compile`: in the faster layout. `lax.scan`: a step of {SCANNED} in one call."
)


def comparison(tasks: Sequence[Task], found: Mapping[str, Found]) -> Table:
    """Returns a line for each model and precision, with all who were measured on it."""
    models = {task.name.split(": ")[0]: task.expected["step"] for task in tasks}
    rows = []
    for model, seconds in models.items():
        times = {who: found.get(f"{model}: {who}", {}).get("step") for who in WHO}
        cells = [text(times[who], "{:.3g}", 1000) for who in WHO]
        rows.append([model, text(seconds, "{:.3g}", 1000), *cells, bar(model, times)])
    head = ["", "expected", *WHO, f"{COMPILED} / {OURS}, bar {BAR:g}"]
    return Table("Models, in ms a step", head, rows)


WHO = (OURS, SCAN, TORCH, COMPILED)


def bar(model: str, times: Mapping[str, float | None]) -> str:
    """Returns the time of torch.compile over ours; in bfloat16 with the verdict on the bar."""
    if times[OURS] is None or times[COMPILED] is None:
        return MISSING
    ratio = times[COMPILED] / times[OURS]
    if "bfloat16" not in model:
        return f"{ratio:.2f}"
    return f"{ratio:.2f}, {met(ratio >= BAR)}"
