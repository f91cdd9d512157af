"""Eight simulated devices for every test, one cache of compilations, and the errors of users."""

import gc
import inspect
import os
import shutil
import tempfile

flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

# doctest, before Python 3.12, takes the last line for the error: it would be JAX's note on frames.
os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")

# Most of the time goes into compiling: workers and subprocesses share what one has compiled.
OWN_CACHE = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if OWN_CACHE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="vqvae_jax_tests_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import hypothesis
import jax
import jaxtyping
import pytest

# Tracing makes objects by the million, and few of them in cycles: a tenth of the time went into
# looking for those.
gc.set_threshold(100_000, 20, 50)

checked = jaxtyping.jaxtyped


def checked_if_annotated(**options):
    """The decorator of `--jaxtyping-packages`, which leaves functions without annotations alone:
    hundreds of those are made with each quantizer, at a millisecond each."""
    decorate = checked(**options)
    return lambda f: f if inspect.isfunction(f) and not f.__annotations__ else decorate(f)


jaxtyping.jaxtyped = checked_if_annotated

# A first call compiles: no deadline. The same examples in every run: a failure can be repeated.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("default")


def pytest_unconfigure(config):
    if OWN_CACHE:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """All doctests belong to the core."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker("core")


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_module():
    """What a module compiled is let go after it: kept, it would be gigabytes in the end."""
    yield
    jax.clear_caches()


SWITCHES = {
    "promotion": {"jax_numpy_rank_promotion": "raise", "jax_numpy_dtype_promotion": "strict"},
    "x64": {"jax_enable_x64": True},
}


@pytest.fixture(params=SWITCHES)
def switched(request):
    """JAX's global switches, as careful pipelines set them."""
    before = {name: getattr(jax.config, name) for name in SWITCHES[request.param]}
    for name, value in SWITCHES[request.param].items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def as_users():
    """Without run-time checks of annotations, as users have it: the errors are our own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", autouse=True)
def classifiers_that_run_fast():
    """Their hundreds of steps, compiled in haste as `make test` asks for, would take a minute."""
    from vqvae_commands.quality import classifier

    classifier.COMPILER_OPTIONS = {"xla_backend_optimization_level": 1}


@pytest.fixture(scope="module")
def coder():
    """An untrained model as a coder of small images."""
    import vqvae_jax as vj
    from tests.commands.coders import coder_of, plain_model

    return coder_of(plain_model(vj.vq(8, 3)), 8, 8, 1)


@pytest.fixture(scope="module")
def deep():
    """Two levels, the lower one of two streams."""
    import vqvae_jax as vj
    from tests.commands.coders import coder_of
    from vqvae_commands.run.recipe import hierarchy

    quantizers = [vj.vq(4, 3), vj.residual(vj.vq(6, 5), vj.vq(7, 5))]
    return coder_of(hierarchy(1, quantizers, 2, width=8, depth=1), 8, 8, 1)
