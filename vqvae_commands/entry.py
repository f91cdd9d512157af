"""The command `vqvae`, and the table of its commands.

vqvae --help
vqvae train --help
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from vqvae_commands.terminal.interrupts import until_unread


class Command(NamedTuple):
    """A command: where its function and its options are, and what it does.

    Attributes:
        module: module in this package, which is imported when the command is called.
        main: name of the function in it, which takes a `Config` of the same module.
        about: what it does, in a line.
    """

    module: str
    main: str
    about: str


COMMANDS = {
    "train": Command("run.autoencoder", "train_autoencoder", "train a model on your data"),
    "evaluate": Command("evaluate", "main", "measure a model on a test set"),
    "reconstruct": Command("reconstruct", "main", "show pictures beside their reconstructions"),
    "tokenize": Command("tokenize", "main", "write the codes of a data set"),
    "semantic-ids": Command("semantic_ids", "main", "turn embeddings into unique ids of codes"),
    "export": Command("export", "main", "write files that need neither this package nor Flax"),
    "prior": Command("generation.prior_training", "train_priors", "train a prior over the codes"),
    "sample": Command("generation.sample_run", "sample", "draw samples from the prior"),
    "interpret": Command("code_meaning.interpretation", "interpret", "show what codes mean"),
    "shard": Command("shard", "main", "write data of any size as records"),
}


HELP = """usage: vqvae COMMAND ...

Vector-quantized autoencoders on your own data.

{commands}

vqvae COMMAND --help lists the options of a command."""


def main() -> None:
    """Runs the command that the command line names; for the installed script `vqvae`."""
    name, *args = sys.argv[1:] or ["--help"]
    with until_unread():
        call(name, args)


def call(name: str, args: Sequence[str]) -> None:
    """Runs a command, or answers a question about all of them."""
    if name in ("-h", "--help", "help"):
        print(help_text())
    elif name == "--version":
        print(f"vqvae_jax {import_module('importlib.metadata').version('vqvae_jax')}")
    elif name not in COMMANDS:
        fail(f"expected a command ({', '.join(COMMANDS)}), found {name!r}")
    else:
        run_command(name, args, f"vqvae {name}")


def help_text() -> str:
    """Returns the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items()]
    return HELP.format(commands="\n".join(lines))


def run_command(name: str, args: Sequence[str] | None = None, program: str | None = None) -> None:
    """Runs a command of the table.

    Args:
        name: name of the command.
        args: the command line; None for that of the process.
        program: what was typed to call it, for the help text.
    """
    command = COMMANDS[name]
    try:
        frame = import_module("vqvae_commands.terminal.command")
        module = import_module(f"vqvae_commands.{command.module}")
        import_module("tyro")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing.startswith("vqvae_"):
            raise
        fail(f"vqvae {name} needs {missing}: run pip install 'vqvae_jax[train]'")
    frame.run(getattr(module, command.main), module.Config, args, program)


def fail(message: str) -> None:
    """Ends the process with a line and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
