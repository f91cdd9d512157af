"""Turn embeddings into unique ids of residual codes: `vqvae semantic-ids` from a checkout.

python -m experiments.semantic_ids --help
"""

from vqvae_commands.entry import run_command

if __name__ == "__main__":
    run_command("semantic-ids", program="python -m experiments.semantic_ids")
