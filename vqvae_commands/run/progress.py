"""The display of a run: its progress bar, and the values that it logs."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vqvae_commands.run.run_folder import Log
from vqvae_jax.training.step import TrainState

Values = dict[str, float]
Pictures = Mapping[str, UInt8[np.ndarray, "H W C"]]
COUNTERS = ("invalid_examples", "invalid_codes", "invalid_rows", "skipped")


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
    """Two hooks of the loop, `log` and `evaluate`, with a live bar where there is a terminal.

    Args:
        folder: the run's folder.
        steps, start: the last step, and the one to begin after.
        title: a line that is printed first, from `describe_start`.
        read: from the metrics of a step to the values to log and the words to show.
        look: from a state to the values to log and a line to print.
        draw: from a state to pictures for TensorBoard, by their names.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        start: int,
        title: str,
        read: Callable[[Values], tuple[Values, list[str]]],
        look: Callable[[TrainState], tuple[Values, str]],
        draw: Callable[[TrainState], Pictures] = lambda state: {},
    ):
        self.read, self.look, self.draw = read, look, draw
        self.files = Log(folder, start)
        self.waiting: list[tuple[int, dict]] = []  # logged, not yet written
        console = Console()
        self.bar = make_progress(console)
        self.task = self.bar.add_task("", total=steps, completed=start, now="compiling")
        self.bar.start()
        console.print(title, soft_wrap=True, markup=False)  # names of files may look like markup

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
        """Writes the metrics of one step."""
        values, words = self.read({name: float(value) for name, value in metrics.items()})
        self.files.write(done, {f"train/{name}": value for name, value in values.items()})
        rate = self.files.write_time(done)
        shown = [f"{rate:.1f} steps/s"] if rate else []
        self.bar.update(self.task, completed=done, now=", ".join(shown + words))

    def evaluate(self, done: int, state, metrics) -> None:
        """Looks at a whole set, usually the test set."""
        self.write()
        values, text = self.look(state)
        self.files.write(done, values)
        self.files.write_pictures(done, self.draw(state))
        self.bar.console.print(f"step {done:>6}: {text}", soft_wrap=True)

    def stop(self, done: int) -> None:
        """Writes the time of the steps after the last that was logged."""
        self.files.write_time(done)

    def close(self) -> None:
        self.bar.stop()
        self.files.close()


def measured(metrics: Values, batch_size: int) -> Values:
    """The metrics of a step; the counters alone where no example of the batch was valid.

    >>> measured({"loss": 0.0, "invalid_examples": 8.0, "skipped": 3.0}, 8)
    {'invalid_examples': 8.0, 'skipped': 3.0}
    """
    if metrics["invalid_examples"] < batch_size:
        return metrics
    return {name: metrics[name] for name in COUNTERS if name in metrics}


def describe_start(config, what: str, start: int) -> str:
    """Two lines that say what begins, or continues, on which devices, and with what."""
    devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
    begun = f"continues at step {start}" if start else "begins"
    return f"{config.name} {begun}, {config.parallel} on {devices}\n{what}"
