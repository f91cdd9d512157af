"""Eight simulated devices for every test, and a switch for tests of bad input."""

import os

flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

import hypothesis
import jaxtyping
import pytest

# A first call compiles: no deadline. The same examples in every run: a failure can be repeated.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("default")


@pytest.fixture
def as_users():
    """Without run-time checks of annotations, as users have it: the errors are our own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
