"""What is imported is declared, by the package or its extras; and what the floors are."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = {  # where a distribution's name is not that of its module
    "dm-haiku": "haiku",
    "dm-pix": "dm_pix",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "pytest-xdist": "xdist",
    "tensorflow-datasets": "tensorflow_datasets",
    "vector-quantize-pytorch": "vector_quantize_pytorch",
}
LIBRARY = ROOT / "vqvae_jax"
# Modules of the package that need more than it: whoever imports them has the extra.
OF_EXTRAS = {LIBRARY / "training/checkpoint.py": ("train",)}


def requirements(*extras: str) -> Iterator[Requirement]:
    """Of the package with these extras, which may name others."""
    for line in [*PROJECT["dependencies"], *(line for e in extras for line in EXTRAS[e])]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            yield from requirements(*sorted(requirement.extras))
        else:
            yield requirement


def declared(*extras: str) -> set[str]:
    """Modules that come with them."""
    return {MODULES.get(r.name, r.name) for r in requirements(*extras)}


def imported(file: Path, lazily: bool) -> set[str]:
    """Modules of other distributions that a file imports: at its top, or lazily too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom) and (lazily or node.col_offset == 0):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {name.partition(".")[0] for name in names}
    ours = {"vqvae_jax", "vqvae_commands", "experiments", "tests", "tools"} | {
        path.stem for path in (ROOT / "tests").rglob("*.py")
    }
    return found - ours - sys.stdlib_module_names


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize(
    ("folder", "lazily", "extras"),
    [
        ("vqvae_jax", False, ()),
        ("vqvae_jax", True, ("data",)),
        ("vqvae_commands", True, ("train",)),
        ("experiments", False, ("train",)),
        ("experiments", True, ("train", "bench")),
        ("tools", True, ()),
        ("tests", True, ("test", "bench")),  # golden arrays are made with the peers
    ],
)
def test_what_is_imported_is_declared(folder, lazily, extras):
    for file in sources(folder):
        more = ("bench",) if file.name == "plain_torch.py" else ()
        known = declared(*extras, *more, *OF_EXTRAS.get(file, ()))
        assert imported(file, lazily) <= known, file


def test_what_the_package_needs_has_no_ceiling():
    for requirement in requirements("train", "test"):
        operators = [specifier.operator for specifier in requirement.specifier]
        assert operators == [">="], requirement


def test_floors_are_those_of_the_project():
    """tests/floors.txt is what `make test-floors` installs."""
    floors = {f"{r.name}=={s.version}" for r in requirements("test") for s in r.specifier}
    assert (ROOT / "tests/floors.txt").read_text().split() == sorted(floors, key=str.lower)
