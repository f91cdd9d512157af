"""Checks of the data against the options of a training run."""

from collections.abc import Sequence

from vqvae_commands.run.data_options import DataOptions
from vqvae_jax.data.picture_folders import PictureFolder
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.sources import Source


def check_options_of_pictures(options: DataOptions, source: Source, downsamplings: int) -> None:
    """Checks what is known before any picture is read, which may take long.

    Raises:
        DataError: for tiles whose sides can't be halved so often, or for options of a folder of
            pictures and another source.
    """
    if isinstance(source, PictureFolder):
        check_sides(options, (source.side,), downsamplings)
    elif options.resize is not None or options.grey:
        raise DataError(
            f"{options.data}: --resize and --grey are for folders of pictures, found other data"
        )


def check_sides(options: DataOptions, sides: Sequence[int], downsamplings: int) -> None:
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
    step = 2**downsamplings
    odd = [side for side in sides if side % step]
    if not odd:
        return
    name, advice = f"{options.data}: a side of {odd[0]}", "crop or pad the data to"
    for option in ("resize", "crop"):
        if getattr(options, option) == odd[0]:
            name, advice = f"--{option} {odd[0]}", "use"
    below, above = odd[0] // step * step, -(-odd[0] // step) * step
    near = f"{below} or {above}" if below else f"{above}"
    raise DataError(
        f"{name} is no multiple of {step}, as {downsamplings} downsamplings need: {advice} {near}, "
        "or pass fewer --downsamplings"
    )
