"""Checks of the data against the options of a training run."""

from collections.abc import Mapping, Sequence
from typing import Any

from vqvae_commands.data.data_options import DataOptions
from vqvae_jax.data.picture_folders import PictureFolder
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.sequences import CutFolder
from vqvae_jax.data.sources import Source
from vqvae_jax.models.input_checks import per_axis

SHAPES = {"crop", "resize", "grey"}
FOLDERS = dict.fromkeys(sorted(SHAPES), "pictures or videos") | {
    "window": "WAV files",
    "frames": "videos",
}
"""Folders that each option is for."""


def check_before_reading(
    options: DataOptions, source: Source, downsamplings: int | Sequence[int]
) -> None:
    """Checks what is known before any picture is read, which may take long.

    Raises:
        DataError: for tiles whose sides can't be halved so often, or options without an effect.
    """
    check_effect(vars(options), options.data, source)
    if isinstance(source, PictureFolder):
        check_sides(options, (source.side,) * 2, downsamplings)


def check_effect(given: Mapping[str, Any], data: str, source: Source) -> None:
    """Raises a DataError if an option is given that has no effect on this source.

    Args:
        given: options of the data by name, as a command was given them.
        data: name of the source.
        source: source.
    """
    effective = SHAPES if isinstance(source, PictureFolder) else set()
    if isinstance(source, CutFolder):
        effective = {"window": {"window"}, "clip": {"frames", *SHAPES}}[source.unit]
    for name, folders in FOLDERS.items():
        if given.get(name) not in (None, False) and name not in effective:
            raise DataError(f"{data}: --{name} is for folders of {folders}, found other data")


def check_sides(
    options: DataOptions, sides: Sequence[int], downsamplings: int | Sequence[int]
) -> None:
    """Raises a DataError that says which sides are possible, unless all of these are.

    Args:
        options: options of the data, named in the error where they set the sides.
        sides: lengths of the spatial axes of an example; none for vectors.
        downsamplings: number of halvings of each side.

    Example:
        >>> check_sides(DataOptions("photos", crop=50), (50, 50), 2)
        Traceback (most recent call last):
        vqvae_jax.data.readers.DataError: --crop 50 is no multiple of 4, ...: use 48 or 52, ...
    """
    halvings = per_axis("downsamplings", downsamplings, len(sides)) if sides else ()
    fitting = [min(n, twos(side)) for side, n in zip(sides, halvings, strict=True)]
    if fitting == [*halvings]:
        return
    side, n = next((s, n) for s, n, m in zip(sides, halvings, fitting, strict=True) if m < n)
    name, advice = f"{options.data}: a side of {side}", "crop or pad the data to"
    for option in ("resize", "crop", "window", "frames"):
        if getattr(options, option) == side:
            name, advice = f"--{option} {side}", "use"
    below, above = side // 2**n * 2**n, -(-side // 2**n) * 2**n
    near = f"{below} or {above}" if below else f"{above}"
    alike = fitting[:1] if len({*fitting}) == 1 else fitting
    raise DataError(
        f"{name} is no multiple of {2**n}, as {n} downsamplings need: {advice} {near}, "
        f"or pass --downsamplings {' '.join(map(str, alike))}"
    )


def twos(side: int) -> int:
    """Returns how often a side can be halved.

    Example:
        >>> twos(28), twos(7)
        (2, 0)
    """
    return (side & -side).bit_length() - 1
