"""Options of the compiler: ours are those it knows, and a user's bad one is named."""

import jax
import pytest

import vqvae_jax as vj
from vqvae_jax import compiling
from vqvae_jax.compiling import fast_compile
from vqvae_jax.testing import laws

VQ = vj.vq(12, 5, init=vj.inits.normal())


@pytest.fixture
def haste(monkeypatch):
    """Another compiler, that never heard of one of our options."""
    options = {"xla_backend_optimization_level": 0, "xla_gone_with_the_next_version": False}
    monkeypatch.setattr(compiling, "HASTE", options)
    fast_compile.cache_clear()
    yield
    fast_compile.cache_clear()


def test_options_that_the_compiler_does_not_know_are_left_out(haste):
    assert fast_compile() == {"xla_backend_optimization_level": 0}


def test_other_platforms_get_no_options_of_the_cpu(monkeypatch, haste):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert fast_compile() == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"xla_backend_optimization_level": 0, "xla_speed": 9}, "got 'xla_speed': 9 .*No such"),
        ({"xla_backend_optimization_level": "x"}, "level': 'x' .*valid int32"),
        ({"xla_backend_optimization_level": None}, "level': None"),
        ({"xla_backend_optimization_level": [1]}, r"level': \[1\]"),
    ],
)
def test_a_users_bad_option_is_named_and_breaks_no_law(options, words, as_users):
    with pytest.raises(ValueError, match=f"compiler_options must be .*{words}"):
        vj.check_quantizer(VQ, compiler_options=options)


def test_options_are_a_dict(as_users):
    with pytest.raises(TypeError, match="compiler_options must be a dict of options, got 'fast'"):
        vj.check_quantizer(VQ, compiler_options="fast")


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError, MemoryError, OSError])
def test_an_error_of_the_machine_is_not_a_broken_law(error):
    with pytest.raises(error, match="RESOURCE_EXHAUSTED") as caught, laws.naming(laws.law_eval, VQ):
        raise error("RESOURCE_EXHAUSTED: out of memory")
    assert caught.value.__notes__ == [f"while law_eval of {VQ!r} was tried"]


def test_a_callers_bad_key_is_not_a_broken_law(as_users):
    with pytest.raises(TypeError):
        vj.check_quantizer(VQ, key="seven")


def test_a_compiler_that_fails_is_not_a_broken_law(monkeypatch, as_users):
    """As one did that had lost an option between the versions."""
    monkeypatch.setattr(laws, "check_compiler_options", lambda options: None)
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option: 'xla_speed'"):
        vj.check_quantizer(VQ, compiler_options={"xla_speed": 9})
