"""Export a trained model as files of `jax.export`: `vqvae export` from a checkout.

python -m experiments.export --help
"""

from vqvae_commands.entry import run_command

if __name__ == "__main__":
    run_command("export", program="python -m experiments.export")
