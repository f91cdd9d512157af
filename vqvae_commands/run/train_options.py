"""The options of a training, and checks of them."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vqvae_commands.data.kinds import Kind
from vqvae_commands.run import resumable
from vqvae_commands.run.quantizer_choice import help_text
from vqvae_commands.run.run_folder import check_name
from vqvae_jax.checks import check_range, check_size
from vqvae_jax.data.sources import EMBEDDED


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a VQ-VAE or a VQ-VAE-2, and write a report to RUNS/NAME/report.html."""

    name: str = "fashion"
    """The run's name, and its folder in `runs`."""
    runs: Path = Path("runs")
    """Folder of all runs."""
    data: str = EMBEDDED
    """The embedded set, a TFDS name, a folder of records, images, WAV files, videos or
    IDX files, or a .npy file."""
    crop: int | None = None
    """Side of tiles in pixels, for a folder of pictures or videos: each picture is cut into a grid
    of them, and of a frame the middle one is kept."""
    resize: int | None = None
    """Side in pixels, for a folder of pictures or videos: the shorter side of each is scaled to it,
    and the middle square is kept; with `--crop` as well, tiles are cut of the scaled pictures."""
    grey: bool = False
    """Read a folder of pictures or videos as one channel."""
    window: int | None = None
    """Number of samples of a window; required for a folder of WAV files."""
    frames: int | None = None
    """Number of frames of a clip; required for a folder of videos, or of folders of frames."""
    lengths: str | None = None
    """A .npy file of the length of each example, of those padded to one length."""
    kind: Kind | None = None
    """Kind of the data; needed only if shape and range are ambiguous."""

    model: Literal["vqvae", "vqvae2"] = "vqvae"
    """One level of codes (vqvae), or several (vqvae2):
    the grid of each level has half the side of the one below it."""
    quantizer: Annotated[str, tyro.conf.arg(metavar="NAME", help=help_text())] = "ema_vq"
    codes: tuple[int, ...] = (512,)
    """K, the size of a codebook; with vqvae2 the size at each level, top first."""
    dim: int = 64
    """D, the width of the codes; scalars and signs have their own."""
    levels: tuple[int, ...] | None = None
    """Number of values of each scalar (fsq, fsp, latent_vq); by default 8 5 5 5."""
    bits: int | None = None
    """Number of signs (lfq, bsq); by default 9."""
    stages: int | None = None
    """Number of codebooks (residual, grouped); by default 4."""
    beta: float = 0.5
    """Weight of the commitment term."""
    decay: float = 0.97
    """Decay of the moving averages that a codebook follows (ema_vq, cosine_ema_vq, residual,
    grouped)."""
    reset: float = 0.1
    """Codes used less often than this share of the mean are reset to encoder outputs;
    0 turns this off."""
    width: int = 64
    """Channels in the encoder and in the decoder."""
    depth: int = 2
    """Residual blocks in the encoder and in the decoder."""
    downsamplings: int | tuple[int, ...] = 2
    """How often each side is halved between data and codes (with vqvae2, the top codes);
    or a number for each axis, such as 1 2 2 for videos of few frames."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the activations."""

    steps: int = 4000
    """Number of training steps."""
    batch_size: int = 32
    """Examples per step, over all devices and processes."""
    optimizer: Literal["adam", "muon"] = "muon"
    """Optimizer: Muon for kernels, with Adam for biases and codes (muon), or Adam for all."""
    learning_rate: float = 4e-3
    """Learning rate at the end of the warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: it falls to 0 along a cosine, or stays as it is, so that the
    run can be lengthened by a larger --steps."""
    warmup: int = 200
    """Steps in which the learning rate rises from 0."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data and the reset of codes."""
    start: Path | None = None
    """Run, or saved model, whose weights and codes the training starts from."""

    parallel: Literal["jit", "shard_map", "pmap"] = "jit"
    """Parallelism of the train step over several devices."""
    parts: int | None = None
    """Split a device's batch into this many parts, processed in turn, to save memory.
    Activations are recomputed for the gradient (remat), even with 1 part."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = 1000
    """Steps between two evaluations on the whole test set."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    processes: int = 1
    """Number of processes in the training (jax.distributed)."""
    process_id: int = 0
    """Index of this process, from 0."""
    coordinator: str = "localhost:12345"
    """Address of process 0."""


def check_options(config: Config) -> None:
    """Raises a ValueError naming an option that is out of range."""
    check_name(config.name)
    resumable.check_training(config)
    check_size(processes=config.processes)
    check_range(0, float("inf"), depth=config.depth)
    if config.parts is not None:
        check_size(parts=config.parts)
        if config.batch_size % config.parts:
            raise ValueError(
                f"--parts {config.parts} does not divide a batch of {config.batch_size}"
            )
