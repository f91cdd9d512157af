"""Draw samples from a run's model and priors, and measure their quality.

python -m experiments.sample runs/fashion                after train and train_prior
python -m experiments.sample --quick                     trains tiny ones first, in runs/quick

Writes RUN/samples/report.html, self-contained, and its pictures and numbers.
"""

from experiments.generation.sample_run import Config, sample
from experiments.run.command import run

if __name__ == "__main__":
    run(sample, Config)
