"""Draw samples from a run's priors, and measure them: `vqvae sample` from a checkout.

python -m experiments.sample --help
"""

from vqvae_commands.entry import run_command

if __name__ == "__main__":
    run_command("sample", program="python -m experiments.sample")
