"""A folder that is written whole or not at all."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vqvae_jax.data.readers import DataError


@contextmanager
def whole_folder(folder: Path, what: str, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Context manager of an empty folder, which takes the place of `folder` when it is filled.

    Args:
        folder: a new or empty folder, or one that may be replaced.
        what: what the folder holds, for the error.
        ours: whether a folder with files holds nothing but this, and may be replaced.

    Raises:
        DataError: if the folder holds anything else.

    Example:
        >>> import tempfile
        >>> home = Path(tempfile.mkdtemp())
        >>> with whole_folder(home / "new", "codes", lambda folder: False) as partial:
        ...     _ = (partial / "a.txt").write_text("a")
        ...     (home / "new").exists()
        False
        >>> [path.name for path in home.iterdir()]
        ['new']
    """
    if folder.exists() and any(folder.iterdir()) and not ours(folder):
        raise DataError(f"{folder}: expected a new folder or one of {what}, found other files")
    folder = folder.resolve()
    partial, old = (folder.with_name(f".{folder.name}.{s}-{os.getpid()}") for s in ("new", "old"))
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():  # a rename cannot replace a folder that holds files
            folder.rename(old)
        partial.rename(folder)
    finally:
        if old.exists() and not folder.exists():  # stopped between the two renames
            old.rename(folder)
        for rest in (partial, old):
            shutil.rmtree(rest, ignore_errors=True)
