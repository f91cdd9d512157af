"""Samples of a run's model and priors, and what they are worth.

python -m experiments.sample runs/fashion                after train and train_prior
python -m experiments.sample --quick                     trains tiny ones itself, in runs/quick

Writes RUN/samples/report.html, whole in one file, and its pictures and numbers.
"""

from experiments.generation.sample_run import Config, sample
from experiments.run.command import run

if __name__ == "__main__":
    run(sample, Config)
