"""Write the codes that a trained model gives a whole data set: `vqvae tokenize` from a checkout.

python -m experiments.tokenize --help
"""

from vqvae_commands.entry import run_command

if __name__ == "__main__":
    run_command("tokenize", program="python -m experiments.tokenize")
