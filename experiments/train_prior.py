"""Train priors over the codes of a run, one for each level.

python -m experiments.train_prior runs/fashion
python -m experiments.train_prior runs/fashion --name masked --prior masked
python -m experiments.train_prior --help

The same command continues a run that was stopped. To draw samples: python -m experiments.sample
"""

from experiments.generation.prior_training import Config, train_priors
from experiments.run.command import run

if __name__ == "__main__":
    run(train_priors, Config)
