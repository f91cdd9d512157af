"""What a run shows while it goes on, and what it logs."""

import math
from collections.abc import Callable
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.evaluate import evaluate
from experiments.runs import Log
from vqvae_jax.data.pipeline import Examples


def make_progress(console: Console, **options) -> Progress:
    """A bar with the time left and a text, where the console is a terminal."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal, **options)


class Display:
    """Two hooks of the loop, `log` and `evaluate`, with a live bar where there is a terminal."""

    def __init__(self, folder: Path, config, model, test: Examples, start: int):
        self.model, self.test, self.config = model, test, config
        self.files = Log(folder, start)
        self.waiting: list[tuple[int, dict]] = []  # logged, not yet written
        console = Console()
        self.bar = make_progress(console)
        self.task = self.bar.add_task("", total=config.steps, completed=start, now="compiling")
        self.bar.start()
        console.print(describe_start(config, model, test, start))

    def log(self, done: int, state, metrics) -> Callable[[], None]:
        """The metrics of this step are on their way, and are written while the next one runs."""
        jax.copy_to_host_async(metrics)
        self.waiting.append((done, metrics))
        return self.write

    def write(self) -> None:
        """Writes the metrics that wait, and moves the bar."""
        for done, metrics in self.waiting:
            self.write_metrics(done, jax.device_get(metrics))
        self.waiting = []

    def write_metrics(self, done: int, metrics) -> None:
        """Those of one step."""
        values = {f"train/{name}": float(v) for name, v in metrics.items()}
        values["train/psnr"] = -10 * math.log10(max(values["train/mse"], 1e-12))
        self.files.write(done, values)
        rate = self.files.write_time(done)
        shown = [f"{rate:.1f} steps/s"] if rate else []
        shown += [f"loss {values['train/loss']:.4f}", f"PSNR {values['train/psnr']:.2f} dB"]
        shown += [
            f"perplexity {value:.0f}"
            for name, value in values.items()
            if "perplexity_batch" in name
        ][:1]
        self.bar.update(self.task, completed=done, now=", ".join(shown))

    def evaluate(self, done: int, state, metrics) -> None:
        """Looks at the whole test set."""
        self.write()
        variables = jax.device_get({"params": state.params, **state.collections})
        table, _ = evaluate(self.model, variables, self.test)
        self.files.write(done, {f"test/{name}": value for name, value in table.items()})
        text = f"step {done:>6}: test PSNR {table['psnr']:.2f} dB"
        if "used" in table:
            text += f", perplexity {table['perplexity']:.0f}, {table['used']:.0%} of the codes used"
        self.bar.console.print(text)

    def close(self) -> None:
        self.bar.stop()
        self.files.close()


def describe_start(config, model, test: Examples, start: int) -> str:
    """One line on what begins."""
    devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
    shape = " x ".join(map(str, test.shape[1:]))
    begun = f"continues at step {start}" if start else "begins"
    return f"{config.name} {begun}: {config.data}, {shape}, {config.parallel} on {devices}"
