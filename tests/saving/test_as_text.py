"""The text of a call gives what it shows, and runs nothing else."""

import jax
import numpy as np
import pytest
from test_laws import ROWS

import vqvae_jax as vj
from vqvae_jax.saving.as_text import LENGTH, from_text

OWN = {"doubled()", "least_used", "orthogonal(scale"}  # of the tests, not of the package
SHOWN = {name: q for name, q in ROWS.items() if not any(own in repr(q) for own in OWN)}


@pytest.mark.parametrize("name", SHOWN)
def test_a_quantizer_is_rebuilt_from_what_it_shows(name):
    assert from_text(repr(SHOWN[name])) == SHOWN[name]


def test_most_quantizers_are_tried():
    assert len(SHOWN) >= 50


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("vq(512, 64)", vj.vq(512, 64)),
        ("vj.vq(512, dim=64, beta=1)", vj.vq(512, 64, beta=1)),
        (" heads(vqvae_jax.fsq((3, 5)), n=2) ", vj.heads(vj.fsq([3, 5]), 2)),
        ("residual(vq(8, 4), lfq(4))", vj.residual(vj.vq(8, 4), vj.lfq(4))),
        ("ema_vq(8, 4, init=vj.inits.kmeans(), reset=codebooks.underused(.2))",
         vj.ema_vq(8, 4, init=vj.inits.kmeans(), reset=vj.codebooks.underused(0.2))),
        ("vq(8, 4, estimator=rotation_trick)", vj.vq(8, 4, estimator=vj.rotation_trick)),
        ("simvq(8, 4, transform=None)", vj.simvq(8, 4)),
        ("given([[-1, 2.5]])", vj.inits.given(np.array([[-1, 2.5]]))),
    ],
)  # fmt: skip
def test_text_as_in_a_script(text, made):
    assert from_text(text) == made


def test_a_model_and_names_of_the_user():
    own = vj.described(lambda: vj.vq(8, 4))
    own.__name__ = "own"
    model = from_text("VQVAE(MLP(4), own(), MLP(1))", {"own": own})
    assert model.quantizer == own() and model.encoder == vj.MLP(4)
    variables = model.init(jax.random.key(0), np.zeros((1, 3), np.float32))
    assert model.apply(variables, np.ones((2, 3), np.float32)).x.shape == (2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a call such as"),
        ("vq(512, 64", "expected a call such as"),
        ("vq(512, 64); vq(1, 1)", "expected a call such as"),
        ("vq(2 ** 9, 64)", r"found '2 \*\* 9'"),
        ("vq(*[512, 64])", r"found '\*\[512, 64\]'"),
        ("vq(**{})", "found 'vq"),
        ("vq(512, 64).init", "expected a name of vqvae_jax, found 'vq"),
        ("os.system('true')", "expected a name of vqvae_jax, found 'os.system'"),
        ("vj.os.getcwd()", "expected a name of vqvae_jax, found 'vj.os"),
        ("__import__('os')", "no public name of vqvae_jax"),
        ("save_model('x', vq(8, 4), 1)", "no public name of vqvae_jax"),
        ("(lambda: 1)()", "expected a name of vqvae_jax"),
        ("[i for i in [1]]", "expected a call, a name, a literal or a list"),
        ("vq(b'1', 64)", "expected a call, a name, a literal or a list"),
        ("straight_through(1, 2)", "is not called"),
        ("vq(512)", "vq can't be called as described: .*dim"),
        ("vq(0, 64)", "size must be an integer >= 1, got 0"),
        ("f(" * 3000 + ")" * 3000, "expected a call such as|nested more than"),
        ("vq(" + "1" * LENGTH, "expected at most"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        from_text(text)
    assert "\n" not in str(error.value)
