"""Look at the meaning of the codes of a trained model.

python -m experiments.interpret runs/fashion

Writes RUN/interpretation/: report.html (whole in one file), pictures/*.png, results.json.
"""

from experiments.code_meaning.interpretation import Config, interpret
from experiments.run.command import run

if __name__ == "__main__":
    run(interpret, Config)
