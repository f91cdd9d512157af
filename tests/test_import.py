"""`import vqvae_jax` is light: no data sets, no checkpoints, no pictures, no devices (T46)."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vqvae_jax
from vqvae_jax.saving import describe

PACKAGE = Path(vqvae_jax.__file__).parent
CODE = """
import sys, flax.linen, flax.nnx  # what flax brings itself does not count
before = set(sys.modules)
import vqvae_jax
inits, codebooks = vqvae_jax.inits, vqvae_jax.codebooks
quantizer = vqvae_jax.ema_vq(8, 64, init=inits.kmeans(), reset=codebooks.underused())
model = vqvae_jax.VQVAE(vqvae_jax.Encoder(), quantizer, vqvae_jax.Decoder())
heavy = {"tensorflow", "tensorflow_datasets", "orbax", "matplotlib", "PIL", "tyro", "rich", "grain"}
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert not heavy & new, heavy & new
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "a device was touched"
"""


def test_import_loads_nothing_heavy_and_touches_no_device():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


LEAN = """
import sys, importlib
for name in {"tyro", "grain", "array_record", "tensorflow", "tensorflow_datasets", "tensorboardX"}:
    sys.modules[name] = None  # importing it fails
parts = ["ablations", "compare", "sweep.launch", "bench.step", "bench.search", "bench.sampling"]
for name in [*parts, "bench.serve", "bench.activations", "bench.machine", "bench.bench_page"]:
    importlib.import_module(f"experiments.{name}")
"""


def test_what_commands_are_made_of_needs_neither_readers_nor_command_lines():
    """An accelerator's image has JAX and Flax, and often none of these."""
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports at its top level."""
    nodes = ast.parse(path.read_text()).body
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
    return {name.split(".")[0] for name in names}


def test_the_package_imports_only_what_it_requires():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[<>=]", line)[0] for line in project["dependencies"]}
    allowed = required | {"numpy", "vqvae_jax"} | set(sys.stdlib_module_names)
    optional = {"checkpoint.py": {"orbax"}}  # not imported by the package itself
    for path in PACKAGE.rglob("*.py"):
        extra = imports(path) - allowed - optional.get(path.name, set())
        assert not extra, f"{path.name} imports {extra}"


LAYERS = [
    "checks", "conversions", "compiling", "saving", "reductions", "losses", "estimators", "search",
    "metrics", "data", "quantizers", "rates", "likelihoods", "models", "training",
    "priors", "equations", "testing",
]  # fmt: skip


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_imports_point_down(path):
    """A layer imports itself and those before it in the list."""
    place = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if place == "__init__":
        return
    tree = ast.walk(ast.parse(path.read_text()))
    modules = [n.module for n in tree if isinstance(n, ast.ImportFrom) and n.module]
    used = {m.split(".")[1] for m in modules if m.startswith("vqvae_jax.")}
    above = {name for name in used if LAYERS.index(name) > LAYERS.index(place)}
    assert not above, f"{path.name} imports {above}, which lie above {place}"


def public_names(folder) -> set[str]:
    """The names that a folder lists in its `__init__`."""
    return {n for n, v in vars(folder).items() if n[0] != "_" and not inspect.ismodule(v)}


def test_the_root_is_small_and_each_public_name_is_in_one_place():
    root = public_names(vqvae_jax) - {"NAMESPACES"}
    assert len(root) <= 70
    seen = dict.fromkeys(root, "vqvae_jax")
    for namespace in vqvae_jax.NAMESPACES:
        place = getattr(vqvae_jax, namespace)
        assert place.__name__.split(".")[-1] == namespace, "a namespace bears its module's name"
        if hasattr(place, "__path__"):
            twice = public_names(place) & seen.keys()
            assert not twice, f"{namespace} repeats {twice}"
            seen |= dict.fromkeys(public_names(place), namespace)


def test_descriptions_know_each_bare_name_once():
    places = [vqvae_jax, *(getattr(vqvae_jax, n) for n in vqvae_jax.NAMESPACES)]
    for name in {f.__name__ for f in describe.FACTORIES | describe.FUNCTIONS}:
        found = {id(vars(p)[name]) for p in places if name in vars(p)}
        assert len(found) <= 1, f"{name} names two things"
