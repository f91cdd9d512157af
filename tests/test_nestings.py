"""Random nestings of quantizers keep every law: what holds for one holds for any composition."""

from functools import partial

import jax
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import vqvae_jax as vj

PARTS, EACH = 54, 5  # at least 200 nestings that differ, in parts that workers share
WARM = vj.combinators.from_optax("linear_schedule", 0.5, 2.0, 4)

pytestmark = pytest.mark.filterwarnings("ignore:.*codes of the first batch repeat")


def leaves(dim: int) -> st.SearchStrategy[vj.Quantizer]:
    """Base quantizers of this width."""
    makers = [
        lambda k: vj.vq(k, dim, init=vj.inits.normal()),
        lambda k: vj.vq(k, dim, init=vj.inits.samples(), estimator=vj.rotation_trick),
        lambda k: vj.ema_vq(k, dim, 0.9, beta=2.0, init=vj.inits.normal()),
        lambda k: vj.ema_vq(k, dim, 0.5, reset=vj.codebooks.underused(0.5)),
        lambda k: vj.simvq(k, dim),
        lambda k: vj.affine_vq(k, dim, init=vj.inits.normal()),
        lambda k: vj.diveq(k, dim),
        lambda k: vj.stochastic_vq(k, dim, init=vj.inits.normal()),
        lambda k: vj.grid([k] * dim),
        lambda k: vj.fsq([k] * dim),
        lambda k: vj.latent_vq([k] * dim, alpha=1.0),
        lambda k: vj.lfq(dim, temperature=1.0),
        lambda k: vj.scheduled(vj.vq(k, dim, init=vj.inits.normal()), beta=WARM),
    ]
    if dim > 1:  # the sphere of one dimension lets no gradient through
        makers += [lambda k: vj.cosine_vq(k, dim), lambda k: vj.bsq(dim)]
    return st.builds(lambda make, k: make(k), st.sampled_from(makers), st.integers(3, 6))


def nestings(dim: int, depth: int) -> st.SearchStrategy[vj.Quantizer]:
    """Combinators around nestings of less depth, all of this width."""
    if depth == 0:
        return leaves(dim)
    inner = nestings(dim, depth - 1)
    kinds = [
        st.builds(vj.residual, inner, leaves(dim)),
        st.builds(vj.repeat, inner, st.integers(1, 3)),
        st.builds(vj.shared, inner, st.just(2)),
        st.builds(vj.project, nestings(dim + 1, depth - 1), st.just(dim)),
        st.builds(vj.scale, inner, st.just(2.0)),
        st.builds(vj.rotate, inner),
        st.builds(vj.frozen, inner),
        st.builds(vj.frozen_after, inner, st.just(2)),
        st.builds(vj.alternated, inner, st.just(vj.combinators.from_optax("sgd", 0.1))),
    ]
    if dim > 1:
        kinds.append(st.builds(vj.normalize, inner, st.just(vj.estimators.unit)))
        kinds.append(st.builds(vj.grouped, nestings(dim // 2, depth - 1), leaves(dim - dim // 2)))
    if dim % 2 == 0:
        kinds.append(st.builds(vj.heads, nestings(dim // 2, depth - 1), st.just(2)))
    return st.one_of(kinds)


def for_each(part: int, check) -> None:
    """Calls check(q) on this part's nestings, which are the same in every run."""

    @seed(part)
    @settings(
        max_examples=EACH,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],  # no shrinking: each try takes seconds, and nestings are small
    )
    @given(q=nestings(dim=2 + part % 3, depth=1 + part % 2))
    def each(q):
        check(q)

    each()


ALWAYS = {13, 20, 30, 36}  # each width, both depths, and all kinds
SOME = [pytest.param(i, marks=[pytest.mark.slow] * (i not in ALWAYS)) for i in range(PARTS)]


@pytest.mark.parametrize("part", SOME)
def test_a_random_nesting_keeps_every_law(part, as_users):
    for_each(part, partial(vj.check_quantizer, compiler_options=vj.fast_compile()))
    jax.clear_caches()  # what was compiled for these is of no use for others, and takes memory


def test_the_nestings_differ_and_have_all_kinds(as_users):
    drawn, always = [], []
    for part in range(PARTS):
        for_each(part, lambda q: drawn.append(repr(q)))
        always += drawn[-EACH:] if part in ALWAYS else []
    assert len(set(drawn)) >= 200
    kinds = """vq ema_vq simvq affine_vq diveq stochastic_vq grid fsq latent_vq lfq cosine_vq bsq
        residual repeat shared project scale rotate frozen frozen_after alternated scheduled
        normalize grouped heads"""
    for kind in kinds.split():
        assert any(f"{kind}(" in text for text in always), kind
