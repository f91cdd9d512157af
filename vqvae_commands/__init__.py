"""The command `vqvae`: what users of the library do every day, from a shell.

This package is light: it imports no JAX before a command needs it.
"""

import os
import sys

from vqvae_commands.terminal.interrupts import end_in_one_line

# The process is this command: `vqvae`, or `python -m` while it looks for its module.
if os.path.basename(sys.argv[0]).removesuffix(".exe") in ("vqvae", "-m"):
    end_in_one_line()
