"""Train a VQ-VAE or a VQ-VAE-2.

python -m experiments.train                                   on the embedded images
python -m experiments.train --name levels --model vqvae2 --codes 512 512
python -m experiments.train --name photos --data DIR --crop 64
python -m experiments.train --help

The same command continues a run that was stopped.
"""

from experiments.run.autoencoder import Config, train_autoencoder
from experiments.run.command import run

if __name__ == "__main__":
    run(train_autoencoder, Config)
