"""Commands keep what they compiled, in a known folder; none is imported by another."""

import ast
import dataclasses
import importlib
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import jax
import pytest

from vqvae_commands import entry
from vqvae_commands.terminal import command

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import jax
from vqvae_commands import entry
from vqvae_commands.terminal import command
command.keep_compilations()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
step = jax.jit(lambda state, x: (state + x @ x, x.sum()), donate_argnums=0)
state, total = step(*(jax.random.normal(jax.random.key(i), (8, 8)) for i in (0, 1)))
print(state.tolist(), total, "/jax/compilation_cache/cache_hits" in hits)
"""


def run(**environment: str) -> tuple[str, bool]:
    """What PROGRAM computes in a process of its own, and whether it compiled before."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=env | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    numbers, hit = done.stdout.strip().rsplit(" ", 1)
    return numbers, hit == "True"


def test_a_second_process_reads_what_the_first_compiled_and_gives_the_same_bits(tmp_path):
    never, _ = run(XDG_CACHE_HOME=str(tmp_path), JAX_ENABLE_COMPILATION_CACHE="0")
    assert not list(tmp_path.glob("vqvae_jax/*"))
    first, hit = run(XDG_CACHE_HOME=str(tmp_path))
    assert not hit and list(tmp_path.glob("vqvae_jax/*"))
    second, hit = run(XDG_CACHE_HOME=str(tmp_path))
    assert hit and never == first == second


def test_the_folder_that_jax_was_told_comes_first(tmp_path):
    run(XDG_CACHE_HOME=str(tmp_path / "ours"), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "theirs"))
    assert list((tmp_path / "theirs").iterdir()) and not (tmp_path / "ours").exists()


@pytest.fixture
def settings(monkeypatch):
    """Of JAX, as they were afterwards."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", before or "")
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_processes_that_a_command_starts_have_its_folder(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command.keep_compilations()
    folder = str(tmp_path / "vqvae_jax")
    assert jax.config.jax_compilation_cache_dir == os.environ["JAX_COMPILATION_CACHE_DIR"] == folder


def test_nothing_is_kept_where_nothing_can_be_written(settings, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    command.keep_compilations()
    assert jax.config.jax_compilation_cache_dir is None


def test_the_folder_is_in_the_home_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert command.cache_folder() == tmp_path / ".cache" / "vqvae_jax"
    assert command.cache_folder().is_dir()


def test_a_user_without_a_home_has_no_folder(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert command.cache_folder() is None


@pytest.mark.parametrize("module", ["compare.__main__", "bench.__main__", "train"])
def test_the_help_shows_the_command_as_it_is_typed(module, monkeypatch):
    main, spec = ModuleType("__main__"), ModuleSpec(f"experiments.{module}", None)
    main.__spec__ = spec
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert command.program() == f"python -m experiments.{module.split('.')[0]}"


ENTRIES = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}
MODULES = [*(ROOT / "experiments").rglob("*.py"), *(ROOT / "vqvae_commands").rglob("*.py")]


def imported(path: Path) -> set[str]:
    """Full names of all that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return found | {f"{node.module}.{a.name}" for node in froms for a in node.names}


@pytest.mark.parametrize("path", sorted(MODULES), ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_no_command_is_imported(path):
    names = [name.split(".") for name in imported(path) if name.startswith("experiments.")]
    assert not [name for name in names if name[1] in ENTRIES]


def test_what_is_installed_needs_no_checkout():
    for path in (ROOT / "vqvae_commands").rglob("*.py"):
        assert not [name for name in imported(path) if name.startswith("experiments")], path


def test_the_list_of_commands_needs_no_jax():
    code = "import sys; from vqvae_commands import entry; entry.help_text(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert not {"jax", "numpy", "vqvae_jax", "tyro"} & set(done.stdout.split())


@pytest.mark.parametrize("name", entry.COMMANDS)
def test_each_command_of_the_table_has_options(name):
    module = importlib.import_module(f"vqvae_commands.{entry.COMMANDS[name].module}")
    assert callable(getattr(module, entry.COMMANDS[name].main))
    assert dataclasses.is_dataclass(module.Config)


def test_a_checkout_has_the_same_commands():
    twins = {"prior": "train_prior", "semantic-ids": "semantic_ids"}
    assert {twins.get(name, name) for name in entry.COMMANDS} <= ENTRIES


def call(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vqvae", *words])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    return stop.value.code


def test_an_unknown_command_is_one_line(monkeypatch, capsys):
    assert call(monkeypatch, "trian") == 2
    assert "found 'trian'" in capsys.readouterr().err


def test_without_the_extra_a_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)  # importing it fails
    assert call(monkeypatch, "evaluate", "runs/x") == 2
    line = "error: vqvae evaluate needs tyro: run pip install 'vqvae_jax[train]'\n"
    assert capsys.readouterr().err == line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "vqvae_commands", "--help"]
        done = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: [Errno 28] No space left on device\n")


def test_no_two_modules_share_a_name():
    names = [p.stem for p in MODULES if not p.stem.startswith("__") and p.stem not in ENTRIES]
    assert len(set(names)) == len(names)


def test_warnings_for_the_user_are_one_line():
    assert command.in_one_line("skipped 2 files", UserWarning, "a.py", 3) == (
        "warning: skipped 2 files\n"
    )
    assert command.in_one_line("old", DeprecationWarning, "a.py", 3).startswith("a.py:3: Dep")
