"""Train priors over the codes of a run, one for each level: `vqvae prior` from a checkout.

python -m experiments.train_prior --help
"""

from vqvae_commands.entry import run_command

if __name__ == "__main__":
    run_command("prior", program="python -m experiments.train_prior")
