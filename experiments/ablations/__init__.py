"""The papers' ablations by name, with the rules that judge their claims."""

from experiments.ablations.codebooks import EMA, INIT, RESTART
from experiments.ablations.gradients import ESTIMATOR, STE_PLUS
from experiments.ablations.loss_terms import BETA, LOSSES
from experiments.ablations.noise import ENTROPY, STOCHASTIC
from experiments.ablations.settings import Ablation
from experiments.ablations.sizes import CODE_DIM, CODEBOOK_SIZE
from experiments.ablations.sonnet import SONNET
from experiments.ablations.stages import RESIDUAL
from experiments.ablations.whole_models import BITS_PER_DIM, HIERARCHY, VAE

ABLATIONS: dict[str, Ablation] = {
    "losses": LOSSES,
    "beta": BETA,
    "ema": EMA,
    "restart": RESTART,
    "init": INIT,
    "codebook-size": CODEBOOK_SIZE,
    "code-dim": CODE_DIM,
    "estimator": ESTIMATOR,
    "ste-plus": STE_PLUS,
    "entropy": ENTROPY,
    "residual": RESIDUAL,
    "hierarchy": HIERARCHY,
    "bits-per-dim": BITS_PER_DIM,
    "vae": VAE,
    "stochastic": STOCHASTIC,
    "sonnet": SONNET,
}
