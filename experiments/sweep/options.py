"""Options of all commands that run arms, and of all comparisons."""

import dataclasses
from pathlib import Path

from vqvae_jax.data.sources import EMBEDDED


@dataclasses.dataclass(frozen=True)
class Running:
    """Options of a command that runs arms."""

    only: tuple[str, ...] = ()
    """Names of the arms to run, as --list shows them, or the parts before their last "-"."""
    list: bool = False
    """Print the names of the arms and stop."""
    quick: bool = False
    """Run with one seed, few steps and 200 test images; the results say nothing about quality."""
    output: Path | None = None
    """Folder for results and pages; by default runs/NAME, or runs/NAME-quick."""
    seeds: int = 3
    """Number of seeds for each arm."""
    processes: int | None = None
    """Number of arms that run at a time; by default one for each core."""


@dataclasses.dataclass(frozen=True)
class Options(Running):
    """Options of a comparison of models under one budget."""

    data: str = EMBEDDED
    """Images: the embedded set, a TFDS name, a folder of IDX files, or a .npy file."""
    steps: int = 1000
    """Number of training steps."""
    batch_size: int = 32
    """Number of images per step."""
    width: int = 32
    """Number of channels in the encoder and in the decoder."""
    depth: int = 1
    """Number of residual blocks in each encoder and decoder."""


@dataclasses.dataclass(frozen=True)
class RateOptions(Options):
    """Options of a comparison whose arms have one learning rate."""

    learning_rate: float = 4e-3
    """Learning rate of Adam at the end of the warm-up; it falls to 0 along a cosine."""
