"""Evaluate a trained model on a whole test set: `vqvae evaluate` from a checkout.

python -m experiments.evaluate --help
"""

from vqvae_commands.entry import run_command

if __name__ == "__main__":
    run_command("evaluate", program="python -m experiments.evaluate")
