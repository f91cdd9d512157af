"""The checks of experiments.accelerator, each as a test, on a machine that has an accelerator.

    python -m pytest -o addopts= tests/test_on_accelerator.py

`addopts=` because images for accelerators lack beartype.
"""

import jax
import pytest

if jax.default_backend() == "cpu":
    pytest.skip("no accelerator here", allow_module_level=True)

import jax.numpy as jnp
import numpy as np

from experiments.accelerator.checks import correct, kept_laws
from vqvae_jax import nearest

pytestmark = pytest.mark.accelerator

CHECKS = {task.name: task for task in correct.tasks(False)}
LAWS = {task.name: task for task in kept_laws.tasks(False)}


@pytest.mark.parametrize("name", CHECKS)
def test_the_device_is_exact(name):
    found = CHECKS[name].prepare()()
    assert found["passed"], found


@pytest.mark.parametrize("name", LAWS)
def test_laws_hold_on_the_device(name):
    assert LAWS[name].prepare()()["passed"]


def test_nearest_is_compiled_to_the_kernel():
    if jax.device_count() > 1:
        pytest.skip("several devices: the compiler shards the arrays, and blocks are searched")
    text = jax.jit(nearest).lower(jnp.ones((4096, 64)), jnp.ones((512, 64))).as_text()
    assert "triton" in text or "tpu_custom_call" in text


def test_indices_are_the_same_in_every_call():
    random = np.random.default_rng(0)
    z, e = (random.standard_normal(shape, np.float32) for shape in ((65536, 64), (4096, 64)))
    first = np.asarray(nearest(z, e))
    for _ in range(5):
        np.testing.assert_array_equal(nearest(z, e), first)
