"""Analyse what the codes of a trained model mean.

python -m experiments.interpret runs/fashion

Writes RUN/interpretation/: report.html (self-contained), pictures/*.png, results.json.
"""

from experiments.code_meaning.interpretation import Config, interpret
from experiments.run.command import run

if __name__ == "__main__":
    run(interpret, Config)
