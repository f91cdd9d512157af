"""Reconstruct your own pictures with a trained model: `vqvae reconstruct` from a checkout.

python -m experiments.reconstruct --help
"""

from vqvae_commands.entry import run_command

if __name__ == "__main__":
    run_command("reconstruct", program="python -m experiments.reconstruct")
