"""The comparisons of models by name."""

from experiments.compare.adversarial import ADVERSARIAL
from experiments.compare.comparison import Comparison
from experiments.compare.levels import LEVELS
from experiments.compare.likelihood import LIKELIHOOD
from experiments.compare.quantizers import QUANTIZERS
from experiments.compare.vae import VAES

COMPARISONS: dict[str, Comparison] = {
    "quantizers": QUANTIZERS,
    "levels": LEVELS,
    "vae": VAES,
    "likelihood": LIKELIHOOD,
    "adversarial": ADVERSARIAL,
}
