"""Section `laws`: `check_quantizer` on a member of each family and on nestings, on the device."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import vqvae_jax as vj
from experiments.accelerator import card
from experiments.accelerator.tables import task_table, verdict
from experiments.accelerator.tasks import Found, Section, Task
from vqvae_jax.quantizers.base import Quantizer
from vqvae_jax.testing.laws import check_quantizer

NORMAL = {"init": vj.inits.normal()}
FITTED = {"init": vj.inits.kmeans(2), "reset": vj.codebooks.underused(0.5)}
EMA, VQ = vj.ema_vq(6, 4, 0.9, **NORMAL), vj.vq(6, 2, **NORMAL)
WARM = vj.combinators.from_optax("linear_schedule", 0.5, 2.0, 4)

# One alone is fitted to its first batch: a GPU's compiler takes ten times as long over k-means.
FAMILIES: Mapping[str, Quantizer] = {
    "ema_vq": vj.ema_vq(12, 5, **NORMAL),
    "fsq": vj.fsq([8, 6, 5]),
    "vq": vj.vq(12, 5, **NORMAL),
    "lfq": vj.lfq(4, entropy=0.3, diversity=0.5, group=2),
    "simvq": vj.simvq(6, 3, beta=3.0),
    "gumbel_vq": vj.gumbel_vq(6, 3, temperature=0.5, kl=0.1),
    "diveq": vj.diveq(6, 3, sigma=0.3, **NORMAL),
    "cosine_ema_vq": vj.cosine_ema_vq(6, 3, 0.9, **NORMAL),
    "stochastic_vq": vj.stochastic_vq(6, 3, temperature=0.5, **NORMAL),
    "sinkhorn_vq": vj.sinkhorn_vq(6, 3, epsilon=0.2, iterations=3),
    "bsq": vj.bsq(6, group=3, diversity=2.0, beta=0.5),
    "affine_vq": vj.affine_vq(6, 3, rate=2.0, **NORMAL),
    "sqvae": vj.sqvae(6, 3, weight=2.0),
    "latent_vq": vj.latent_vq([3, 4, 2], alpha=0.5, beta=2.0),
    "nsvq": vj.nsvq(6, 3),
    "moment_matched": vj.codebook_vq(vj.codebooks.moment_matched(vj.codebooks.ema(6, 3, 0.9))),
    "ema_vq, k-means and resets": vj.ema_vq(12, 5, **FITTED),
}
NESTINGS: Mapping[str, Quantizer] = {
    "repeat(ema_vq)": vj.repeat(EMA, 3),
    "project(residual(grouped, lfq))": vj.project(
        vj.residual(vj.grouped(VQ, vj.fsq([4])), vj.lfq(3, temperature=1.0)), 5
    ),
    "residual(repeat, shared)": vj.residual(vj.repeat(EMA, 2), vj.shared(EMA, 2)),
    "heads(residual)": vj.heads(vj.residual(VQ, vj.grid([3, 3])), 2),
    "normalize(rotate(scale))": vj.normalize(vj.rotate(vj.scale(EMA, 2.0)), vj.estimators.unit),
    "grouped(scheduled, frozen_after)": vj.grouped(
        vj.scheduled(VQ, beta=WARM), vj.frozen_after(EMA, 1)
    ),
    "repeat(project)": vj.repeat(vj.project(VQ, 4), 3, estimator=None),
    "residual(residual)": vj.residual(vj.residual(EMA, vj.bsq(4)), vj.latent_vq([3] * 4)),
}
ALL = FAMILIES | NESTINGS
QUICK = ("ema_vq", "fsq", "repeat(ema_vq)")


def tasks(quick: bool) -> list[Task]:
    """Returns a task for each quantizer."""
    return [Task(name, partial(prepare, ALL[name])) for name in (QUICK if quick else ALL)]


def prepare(q: Quantizer) -> Callable[[], Found]:
    """Checks the laws, as nearly all of that is compiling; what is returned only says so."""
    check_quantizer(q, compiler_options=card.compiler_options())
    return lambda: {"passed": True}


def tables(tasks: Sequence[Task], found: Mapping[str, Found]):
    """Returns the verdicts."""
    return [task_table("", tasks, found, {"laws": verdict})]


SECTION = Section(
    "Laws",
    "The contract of quantizers (`vj.testing.check_quantizer`), on a member of each family and on "
    "eight nestings: gradients, masks, replicas, decoding, dtypes, JSON.",
    40,
    tasks,
    tables,
)
