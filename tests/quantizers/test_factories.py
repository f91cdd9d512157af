"""Every factory: no argument is without effect, and no two arrays are drawn with one key."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqvae_jax as vj
from vqvae_jax.estimators import exactly
from vqvae_jax.quantizers.combinators.wrappers import around

K, D, N = 12, 3, 40
KEY = jax.random.key(0)
Z = jnp.asarray(np.random.default_rng(0).normal(size=(N, D)), jnp.float32)
NOT_ALL = jnp.arange(N) % 4 > 0  # weights: 0 and 1
pytestmark = pytest.mark.filterwarnings("ignore:.*codes of the first batch repeat")


def doubled(z_e, z_q):
    return exactly(z_q, 2 * z_e)


OTHER = {  # another value for each parameter, by its name
    "beta": 0.6,
    "alpha": 0.7,
    "kl": 0.3,
    "weight": 0.8,
    "sigma": 0.4,
    "rate": 3.0,
    "decay": 0.6,
    "eps": 0.3,
    "epsilon": 0.7,
    "temperature": 0.35,
    "variance": 0.4,
    "entropy": 0.7,
    "diversity": 0.4,
    "rounded": 0.3,
    "top": 2,
    "iterations": 1,
    "group": D,
    "init": vj.inits.normal(0.3),
    "reset": lambda counts: counts > -1,
    "estimator": doubled,
    "transform": vj.codebooks.Transform(
        lambda key, width: 2 * jnp.eye(width), lambda w, e: e @ w, D
    ),
    "relax": vj.quantizers.soft,
    "bound": vj.quantizers.symmetric_bound,
    "cdf": vj.quantizers.normal_cdf,
}
LEVELS = {"levels": [5, 4, 3]}
SIZES = {
    vj.fsq: LEVELS, vj.fsp: LEVELS, vj.latent_vq: LEVELS, vj.lfq: {"bits": D}, vj.bsq: {"bits": D}
}  # fmt: skip
FACTORIES = [
    vj.vq, vj.ema_vq, vj.stochastic_vq, vj.sinkhorn_vq, vj.cosine_vq, vj.cosine_ema_vq,
    vj.affine_vq, vj.simvq, vj.diveq, vj.nsvq, vj.gumbel_vq, vj.sqvae, *SIZES,
]  # fmt: skip


def step(q):
    """All that a training step shows: outputs, the new state, gradients."""
    params, state = q.init(KEY)

    def loss(params, z):
        out, new = q.apply(params, state, z, train=True, key=KEY, mask=NOT_ALL)
        return jnp.sum(jnp.cos(out.quantized)) + out.loss, (out, new)

    grads, (out, new) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, Z)
    return jax.tree.leaves((out.quantized, out.indices, out.losses, new, grads))


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_no_argument_is_without_effect(factory):
    sizes = SIZES.get(factory, {"size": K, "dim": D})
    options = set(inspect.signature(factory).parameters) - set(sizes)
    # Codes about as large as the rows: else all rows would choose the same one.
    base = {"init": vj.inits.normal()} if "init" in options else {}
    plain = step(factory(**sizes, **base))
    for name in options:
        other = step(factory(**sizes, **base | {name: OTHER[name]}))
        differ = len(plain) != len(other) or any(
            a.shape != b.shape or bool(jnp.any(a != b)) for a, b in zip(plain, other, strict=True)
        )
        assert differ, name


def own_draw(key):
    return {}, {"own": jax.random.normal(key, (4, 4))}


NESTS = {
    "residual": vj.residual(vj.vq(K, D), vj.vq(K, D), vj.vq(K, D)),
    "grouped": vj.grouped(vj.vq(K, D), vj.vq(K, D)),
    "project": vj.project(vj.vq(K, D), 5),
    "around": around(vj.vq(K, D), *[lambda params, state, z: z] * 2, draw=own_draw),
    "mapped": vj.codebook_vq(vj.codebooks.mapped(vj.codebooks.fixed(K, D), vj.codebooks.linear(5))),
    "gumbel_vq": vj.gumbel_vq(K, D),
    "random_projection": vj.models.random_projection(K, 5, D, heads=2),
}


@pytest.mark.parametrize("name", NESTS)
def test_each_array_is_drawn_with_a_key_of_its_own(name):
    """With one key, whatever the distributions, the first numbers are in the same order."""
    drawn = [x.ravel()[:9] for x in jax.tree.leaves(NESTS[name].init(KEY)) if x.size > 9]
    orders = {tuple(np.argsort(x).tolist()) for x in drawn if np.ptp(x) > 0}
    assert len(orders) == sum(np.ptp(x) > 0 for x in drawn) > 1


@pytest.mark.parametrize(
    "q, file",
    [(vj.vq(2, 2), "from_codebook"), (vj.fsq([3]), "digits"), (vj.lfq(2), "digits")],
    ids=["codebook", "scalar", "bits"],
)
def test_a_reader_is_led_to_the_function_that_runs(q, file):
    assert inspect.unwrap(q.apply).__module__ == f"vqvae_jax.quantizers.{file}"
    assert file in inspect.getdoc(vj.Quantizer)
