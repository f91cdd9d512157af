"""Commands that are run from a checkout: `python -m experiments.NAME`."""

import sys

from vqvae_commands.terminal.interrupts import end_in_one_line

if sys.argv[0] == "-m":  # so it is while `python -m` looks for the command
    end_in_one_line()
