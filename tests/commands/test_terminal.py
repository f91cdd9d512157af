"""Tables of commands fit 80 columns; Ctrl-C and readers that leave end them without traceback."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import ablate
from experiments.bench import bench_page
from experiments.compare.__main__ import print_comparisons
from vqvae_commands import reconstruct, tokenize
from vqvae_commands.code_meaning.interpretation import probe_lines
from vqvae_commands.code_meaning.probes import Score
from vqvae_commands.generation import bits_table, sample_page
from vqvae_commands.run import model_metrics
from vqvae_commands.terminal.interrupts import as_usual, end, held_back
from vqvae_commands.terminal.terminal_table import print_lines

ROOT = Path(__file__).parents[2]
LONG = Path("/home/someone/" + "experiments/with/a/long/name/" * 4)


def evaluated():
    table = {"psnr": 24.1234, "mse": 1234.5678, "ssim": 0.81234}
    streams = [f"level{level}/{q}/" for level in (0, 1) for q in (0, 11)]
    names = ("perplexity", "used", "seen")
    table |= {s + name: 98_765_432.1 for s in streams for name in names}
    model_metrics.print_table(table | {"bits_uniform": 123_456.0}, f"{LONG}, model 0123456789")


def tokenized():
    numbers = dict(zip(tokenize.ROWS, (1_281_167, 65_536, 655_360.0, 0.98765, 0.4321), strict=True))
    tokenize.print_codes(dict.fromkeys(("train", "test"), numbers), f"{LONG}, model, mnist")


def reconstructed():
    sizes = (4032, 3024), ((1008, 756, 8), (504, 378, 8))
    one = reconstruct.Reconstructed(LONG, LONG / ("photo" * 20), *sizes, 28.123, 0.81234, 55e6)
    reconstruct.print_results([one], LONG)


def fitted():
    table = dict.fromkeys(bits_table.COLUMNS, 123_456.7)
    bits_table.print_bits([table, table], f"{LONG}: transformer")


def sampled():
    numbers = {
        f"{kind}{of}": 0.98765 for kind in sample_page.KINDS for of in ("_samples", *sample_page.OF)
    }
    numbers |= {"different": 0.98765, "repeated": 0.98765}
    print_lines(sample_page.quality_lines(numbers), f"{LONG}, 1,000 samples")


def interpreted():
    scores = {name: Score(0.81234, 0.80123, 0.82345, 1.0) for name in ("linear", "neighbours")}
    name = "codes, one-hot, at each place of the map"
    print_lines(probe_lines({name: (25_088, scores)}), "test accuracy, 95 % intervals")


def raced():
    entry = "3,063,028 [2,917,108, 3,309,134]"
    head = ["", "images/s", "ms a batch", "images/s over those of the step", "compile s"]
    table = bench_page.Table("Images", head, [["array in memory", *[entry] * 4]], "A note. " * 20)
    bench_page.print_part(bench_page.Part("pipeline", "", [table], {}))


@pytest.mark.parametrize(
    "show",
    [
        evaluated,
        tokenized,
        reconstructed,
        fitted,
        sampled,
        interpreted,
        raced,
        ablate.print_ablations,
        print_comparisons,
    ],
)
def test_what_is_printed_fits_80_columns_and_no_number_is_cut(show, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    show()
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 80 and "…" not in narrow
    monkeypatch.setenv("COLUMNS", "1000")
    show()
    assert numbers(narrow) == numbers(capsys.readouterr().out)


def numbers(printed: str) -> list[str]:
    """All numbers of tables, in any order; the first column may be repeated."""
    return sorted(set(re.findall(r"[\d.,]*\d%?", printed)))


def test_a_table_that_is_too_wide_goes_on_below_with_its_first_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_lines([["name", *"abcdef"], ["[bold]row", *[f"{i}.12345678" for i in range(6)]]], "title")
    printed = capsys.readouterr().out
    assert printed.startswith("title\n") and max(map(len, printed.splitlines())) <= 40
    assert printed.count("[bold]row") == 3 and len(re.findall(r"\d\.12345678", printed)) == 6


PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
import vqvae_commands
import dataclasses, threading, time
{first}
from vqvae_commands.terminal import command
@dataclasses.dataclass
class Config:
    "Waits."
def ready():
    print("ready", flush=True)
    time.sleep(60)
class Callback:
    def __del__(self):
        ready()
def lost():
    Callback()
    time.sleep(60)
def thread():
    threading.Thread(target=ready).start()
command.run(lambda config: {main}(), Config, [])
"""
STOPS = {
    "while it starts": ("print('ready', flush=True); time.sleep(60)", "ready"),
    "in the function": ("", "ready"),
    "in a callback, which loses it": ("", "lost"),
    "at the end, while a thread is awaited": ("", "thread"),
}


def start(*words: str) -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, env=env, **pipes)


@pytest.mark.parametrize("when", STOPS)
def test_ctrl_c_ends_a_command_in_one_line(when, tmp_path):
    first, main = STOPS[when]
    program = tmp_path / "vqvae"  # a process of this name is the command
    program.write_text(PROGRAM.format(first=first, main=main))
    with start(str(program)) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=20)
    assert (process.returncode, printed) == (130, "stopped\n")


PRINTS = """
from vqvae_commands.terminal import command
import dataclasses
@dataclasses.dataclass
class Config:
    "Prints."
command.run(lambda config: print("much " * 9), Config, [])
"""


@pytest.mark.parametrize("words", [["-m", "vqvae_commands", "--help"], ["-c", PRINTS]])
def test_a_reader_that_leaves_ends_a_command_quietly(words):
    with start(*words) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_child_started_while_ctrl_c_is_held_back_never_gets_it():
    wait = "import time; print('ready', flush=True); time.sleep(60)"
    with held_back():
        process = start("-c", wait)
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_ctrl_c_ends_the_process_before_a_function_and_after_it(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.signal(signal.SIGINT, end)
    try:
        with as_usual():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is end
    finally:
        signal.signal(signal.SIGINT, before)


def test_within_another_program_ctrl_c_stays_as_it_was():
    before = signal.getsignal(signal.SIGINT)
    with as_usual():
        assert signal.getsignal(signal.SIGINT) is before is not end
    assert signal.getsignal(signal.SIGINT) is before
