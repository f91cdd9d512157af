"""Every quantizer is a row here and keeps every law, on devices and through checkpoints too.

A new quantizer is added to `ROWS`, with the options that change its state or its codes.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.lax import stop_gradient as sg
from jax.sharding import AxisType, PartitionSpec

import vqvae_jax as vj
from vqvae_jax.compiling import fast_compile
from vqvae_jax.saving.describe import Function
from vqvae_jax.testing import laws, trials


@vj.described
def doubled() -> Function:
    """A user's own estimator: the gradient to the encoder is twice that to the code."""
    return Function(lambda z_e, z_q: sg(z_q) + 2 * (z_e - sg(z_e)))


@vj.described
def orthogonal(scale: float = 1.0) -> vj.inits.Init:
    """A user's own init."""
    return vj.inits.Init(lambda key, size, dim: scale * jax.random.orthogonal(key, size)[:, :dim])


def least_used(counts):
    """A user's own rule for dead codes, a plain function: the least used code, always."""
    return counts == jnp.min(counts)


KM = {"init": vj.inits.kmeans(2), "reset": vj.codebooks.underused(0.5)}
DROPOUT = vj.combinators.quantizer_dropout(0.7, multiple=2)
HELD = [True, False, False, True, False, False]
WARM = vj.combinators.from_optax("linear_schedule", 0.5, 2.0, 4)
SGD = vj.combinators.from_optax("sgd", 0.1, momentum=0.9)

# K is not D, not always a power of 2 or less than the rows; beta and decay are not the defaults.
ROWS = {
    "vq_uniform": vj.vq(16, 4, beta=3.0),
    "vq_one_code": vj.vq(1, 1),
    "vq_own": vj.vq(6, 3, init=orthogonal(2.0), estimator=doubled()),
    "vq_kmeans_revive": vj.vq(12, 5, **KM),
    "vq_rotation": vj.vq(6, 3, init=vj.inits.normal(), estimator=vj.rotation_trick),
    "vq_synchronized": vj.vq(
        6, 3, init=vj.inits.normal(), estimator=vj.estimators.synchronized(0.3)
    ),
    "vq_given": vj.vq(3, 2, init=vj.inits.given([[0, 1], [2, 3], [-1, -1]])),
    "vq_terms": vj.codebook_vq(
        vj.codebooks.gradient(6, 3, init=vj.inits.normal()),
        beta=0.0,
        terms=[
            vj.regularizers.orthogonal(),
            vj.regularizers.diversity(0.1),
            vj.regularizers.cross_entropy(0.5),
        ],
    ),
    "ema_uniform": vj.ema_vq(16, 4, decay=0.9),
    "ema_no_memory": vj.ema_vq(6, 3, decay=0.0, eps=0.0, beta=3.0, init=orthogonal(2.0)),
    "ema_zero_debiased": vj.ema_vq(12, 5, init=vj.inits.zero_debiased(vj.inits.normal())),
    "ema_samples": vj.ema_vq(90, 2, decay=0.5, init=vj.inits.samples(), estimator=doubled()),
    "ema_kmeans_revive": vj.ema_vq(12, 5, init=vj.inits.kmeans(2), reset=least_used),
    "ema_held": vj.codebook_vq(
        vj.codebooks.partly_frozen(vj.codebooks.ema(6, 3, init=vj.inits.normal()), HELD)
    ),
    "vq_held": vj.codebook_vq(
        vj.codebooks.partly_frozen(vj.codebooks.gradient(6, 3, init=vj.inits.normal()), HELD),
        terms=[vj.regularizers.orthogonal_active()],
    ),
    "stochastic": vj.stochastic_vq(6, 3, temperature=0.5, init=vj.inits.normal()),
    "stochastic_top": vj.codebook_vq(
        vj.codebooks.ema(12, 5, **KM), assign=vj.assignments.sampled(2.0, top=3)
    ),
    "sinkhorn": vj.sinkhorn_vq(6, 3, epsilon=0.2, iterations=3),
    "bfloat16": vj.codebook_vq(
        vj.codebooks.gradient(6, 3, **KM), assign=vj.assignments.in_bfloat16(2)
    ),
    "cosine": vj.cosine_vq(6, 3, beta=3.0),
    "cosine_ema": vj.cosine_ema_vq(6, 3, 0.9, **KM),
    "affine": vj.affine_vq(6, 3, rate=2.0, **KM),
    "matched": vj.codebook_vq(vj.codebooks.moment_matched(vj.codebooks.ema(6, 3, 0.9, **KM), 0.9)),
    "simvq": vj.simvq(6, 3, beta=3.0),
    "simvq_wide": vj.codebook_vq(
        vj.codebooks.mapped(vj.codebooks.fixed(6, 2, vj.inits.normal()), vj.codebooks.linear(3))
    ),
    "gumbel": vj.gumbel_vq(6, 3, temperature=0.5, kl=0.1),
    "gumbel_soft": vj.gumbel_vq(6, 3, relax=vj.quantizers.soft),
    "diveq": vj.diveq(6, 3, sigma=0.3, **KM),
    "nsvq": vj.nsvq(6, 3),
    "sqvae": vj.sqvae(6, 3, weight=2.0),
    "grid": vj.grid([3, 2, 5]),
    "fsq": vj.fsq([8, 6, 5]),
    "fsq_arctanh": vj.fsq([8, 5], bound=vj.quantizers.arctanh_bound),
    "fsq_noise": vj.fsq([4, 3, 2], bound=vj.quantizers.symmetric_bound, rounded=0.5),
    "fsp": vj.fsp([4, 5], vj.quantizers.normal_cdf, rounded=0.3),
    "latent": vj.latent_vq([3, 4, 2], alpha=0.5, beta=2.0),
    "lfq": vj.lfq(4, entropy=0.3, diversity=0.5, group=2, temperature=1.0, beta=0.7),
    "bsq": vj.bsq(6, group=3, diversity=2.0, beta=0.5),
    "residual": vj.residual(
        vj.vq(12, 5, init=vj.inits.normal()), vj.ema_vq(6, 5, 0.9, beta=3.0, **KM)
    ),
    "residual_dropout": vj.residual(
        vj.vq(12, 5, beta=3.0),
        vj.fsq([3] * 5),
        dropout=vj.combinators.quantizer_dropout(0.7),
        estimator=vj.rotation_trick,
    ),
    "residual_own_gradients": vj.residual(vj.diveq(6, 3), vj.gumbel_vq(6, 3), estimator=None),
    "repeat": vj.repeat(vj.ema_vq(12, 5, 0.5, **KM), 3),
    "repeat_dropout": vj.repeat(vj.ema_vq(12, 5, 0.5), 4, dropout=DROPOUT),
    "shared": vj.shared(vj.ema_vq(12, 5, 0.5, **KM), 3),
    "shared_dropout": vj.shared(vj.vq(12, 5, init=vj.inits.normal()), 4, dropout=DROPOUT),
    "grouped": vj.grouped(vj.vq(6, 2, **KM), vj.fsq([3, 5]), vj.ema_vq(4, 1, 0.9)),
    "heads": vj.heads(vj.ema_vq(12, 2, 0.9, **KM), 3),
    "project": vj.project(vj.vq(6, 2, init=vj.inits.normal()), 5),
    "normalize": vj.normalize(vj.vq(6, 3, init=vj.inits.normal()), vj.estimators.unit),
    "scale": vj.scale(vj.grid([3, 2]), 2.5),
    "rotate": vj.rotate(vj.lfq(3, temperature=1.0)),
    "scheduled": vj.scheduled(vj.ema_vq(6, 3, init=vj.inits.normal()), beta=WARM),
    "alternated": vj.alternated(vj.vq(6, 3, init=vj.inits.normal()), SGD),
    "frozen": vj.frozen(vj.ema_vq(6, 3)),
    "frozen_after": vj.frozen_after(vj.vq(6, 3, init=vj.inits.normal()), 2),
}

EMA, VQ = vj.ema_vq(6, 4, 0.9, **KM), vj.vq(6, 2, init=vj.inits.normal())
NESTINGS = {
    "project(residual(grouped, lfq))": vj.project(
        vj.residual(vj.grouped(VQ, vj.fsq([4])), vj.lfq(3, temperature=1.0)), 5
    ),
    "repeat(project)": vj.repeat(vj.project(VQ, 4), 3, estimator=None),
    "repeat(grouped)": vj.repeat(vj.grouped(VQ, vj.simvq(5, 1)), 2),
    "residual(repeat, shared)": vj.residual(vj.repeat(EMA, 2), vj.shared(EMA, 2)),
    "residual(residual)": vj.residual(vj.residual(EMA, vj.bsq(4)), vj.latent_vq([3] * 4)),
    "heads(residual)": vj.heads(vj.residual(VQ, vj.grid([3, 3])), 2),
    "grouped(scheduled, frozen_after)": vj.grouped(
        vj.scheduled(VQ, beta=WARM), vj.frozen_after(EMA, 1)
    ),
    "normalize(rotate(scale))": vj.normalize(vj.rotate(vj.scale(EMA, 2.0)), vj.estimators.unit),
    "alternated(residual)": vj.alternated(vj.residual(VQ, VQ), SGD),
    "residual(diveq, project)": vj.residual(
        vj.diveq(6, 4),
        vj.project(VQ, 4),
        estimator=None,
        dropout=vj.combinators.quantizer_dropout(0.5),
    ),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*codes of the first batch repeat")


ALL = ROWS | NESTINGS
# One of each family, and four nestings.
FAMILIES = {
    *("vq_kmeans_revive", "ema_kmeans_revive", "stochastic", "simvq", "gumbel", "diveq", "fsq"),
    *("latent", "bsq"),
}
CORE = FAMILIES | {
    *("project(residual(grouped, lfq))", "repeat(project)", "heads(residual)"),
    "alternated(residual)",
}
FEW = {"vq_kmeans_revive", "ema_kmeans_revive", "stochastic", "alternated(residual)"}
# Slow: other rows have their factories, and their options' numbers have tests of their own.
ALIKE = {
    *("vq_uniform", "vq_rotation", "vq_synchronized", "vq_given", "ema_uniform", "ema_held"),
    *("stochastic_top", "cosine", "simvq_wide", "gumbel_soft", "grid", "fsq_arctanh"),
    *("residual", "residual_own_gradients", "repeat_dropout", "shared_dropout", "grouped"),
    *("heads", "project", "normalize", "scale", "rotate", "scheduled", "alternated"),
    *("frozen_after", "repeat(grouped)", "residual(repeat, shared)"),
}
# Replicas share in these what they share in another.
SHARED_ALIKE = ALIKE | {
    *("vq_one_code", "vq_own", "ema_no_memory", "bfloat16", "nsvq", "fsp", "residual_dropout")
}


def slow_but(names, of=ALL, core=()):
    """All quantizers, or some; those of other names in the slow tests."""

    def marks(name):
        return [pytest.mark.slow] * (name not in names) + [pytest.mark.core] * (name in core)

    return [pytest.param(name, marks=marks(name)) for name in of]


BEGUN = itertools.count(1)


@pytest.fixture(scope="module", params=slow_but(ALL.keys() - ALIKE, core=CORE))
def trial(request):
    if next(BEGUN) % 8 == 0:
        jax.clear_caches()  # they take memory; the small programs are of use for the next ones
    return trials.begin_trial(ALL[request.param], compiler_options=fast_compile())


OF_ONE_DEVICE = [law for law in laws.LAWS if law is not laws.law_replicas]


@pytest.mark.parametrize("law", OF_ONE_DEVICE, ids=lambda law: law.__name__)
def test_law(trial, law):
    law(trial)


@pytest.mark.parametrize("trial", slow_but(FEW), indirect=True)
def test_law_replicas_by_vmap(trial):
    """Always for some: `shard_map`, which is stricter, keeps the law for more."""
    laws.law_replicas(trial)


# What a switch forbids is an error where it is traced: `test_switches.py` traces all quantizers.
@pytest.mark.parametrize("name", slow_but({"ema_kmeans_revive", "gumbel"}))
def test_laws_under_a_switch(name, switched):
    trial = trials.begin_trial(ALL[name], compiler_options=fast_compile())
    for law in laws.LAWS:
        law(trial)
    laws.law_replicas(trial, by_shard_map)
    jax.clear_caches()


def by_shard_map(jit, step):
    """As `laws.by_vmap`, on four devices; params and state are the same on all, says their spec."""

    def local(params, states, *dealt):
        state = jax.tree.map(lambda a: a[0], states)
        result = step(params, state, *jax.tree.map(lambda a: a[0], dealt))
        return jax.tree.map(lambda a: a[None], result)

    everywhere, dealt = PartitionSpec(), PartitionSpec("r")
    mesh = jax.make_mesh((4,), ("r",), (AxisType.Auto,), devices=jax.devices()[:4])
    specs = (everywhere, everywhere, dealt, dealt, dealt)
    return jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=dealt))


def by_pmap(jit, step):
    """The same by pmap, which mistakes in_axes=None where a dict is empty: params are copied."""
    mapped = jit(jax.pmap(step, axis_name="r", devices=jax.devices()[:4]))

    def replicas(params, *dealt):
        return mapped(jax.tree.map(lambda a: np.stack([a] * 4), params), *dealt)

    return replicas


@pytest.mark.parametrize("trial", slow_but(ALL.keys() - SHARED_ALIKE, core=CORE), indirect=True)
def test_law_replicas_by_shard_map(trial):
    laws.law_replicas(trial, by_shard_map)


@pytest.mark.parametrize(
    "trial",
    slow_but({"alternated(residual)", "heads(residual)"}, of=NESTINGS),
    indirect=True,
)
def test_law_replicas_by_pmap(trial):
    laws.law_replicas(trial, by_pmap)


def test_a_second_step_compiles_nothing_and_fits_a_cond(trial):
    compiled = trial.step._cache_size()
    new = trial.step(trial.params, trial.state, trial.z, trial.key)["state"]
    trial.step(trial.params, new, trial.z, trial.key)
    assert trial.step._cache_size() == compiled
    jax.eval_shape(lambda ok: jax.lax.cond(ok, lambda: new, lambda: trial.start), True)


@pytest.mark.parametrize("trial", slow_but(CORE, core=CORE), indirect=True)
def test_params_and_state_survive_a_checkpoint_and_jax_tree(trial, tmp_path):
    made = {"params": trial.params, "state": trial.state}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "made", made)
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "made", jax.eval_shape(lambda: made))
    leaves, structure = jax.tree.flatten(made)
    for again in (restored, jax.tree.unflatten(structure, leaves)):
        assert laws.specs(again) == laws.specs(made)
        laws.same(again, made)


def test_each_of_the_params_gets_a_gradient(trial):
    params, _ = trial.step(trial.params, trial.state, trial.z, trial.key)["grads"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert jnp.any(leaf != 0), f"params{jax.tree_util.keystr(path)}"


def test_rows_of_the_user_are_dealt_to_replicas():
    z = jnp.arange(1.0, 1 + 3 * 5 * 2).reshape(3, 5, 2)
    trial = trials.begin_trial(vj.vq(5, 2), key=jax.random.key(7), z=z)
    np.testing.assert_array_equal(trial.z[:15], z.reshape(15, 2))
    assert trial.z.shape == (16, 2) and trial.spoilt.shape == (4, 5, 2)


def test_rows_of_another_width_are_refused(as_users):
    with pytest.raises(ValueError, match="z must be"):
        vj.check_quantizer(vj.vq(5, 2), z=jnp.ones((4, 3)))
