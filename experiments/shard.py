"""Write data of any size as ArrayRecord shards: `vqvae shard` from a checkout.

python -m experiments.shard --help
"""

from vqvae_commands.entry import run_command

if __name__ == "__main__":
    run_command("shard", program="python -m experiments.shard")
