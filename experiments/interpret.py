"""Analyse what the codes of a trained model mean: `vqvae interpret` from a checkout.

python -m experiments.interpret --help
"""

from vqvae_commands.entry import run_command

if __name__ == "__main__":
    run_command("interpret", program="python -m experiments.interpret")
