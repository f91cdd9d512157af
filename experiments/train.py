"""Train a VQ-VAE or a VQ-VAE-2: `vqvae train` from a checkout.

python -m experiments.train --help
"""

from vqvae_commands.entry import run_command

if __name__ == "__main__":
    run_command("train", program="python -m experiments.train")
