"""Reader of WAV files. SciPy is imported on first use."""

import warnings
from pathlib import Path

import numpy as np

from vqvae_jax.data.cut_files import Recording
from vqvae_jax.data.readers import DataError, first_line, require
from vqvae_jax.data.splitting import names_in, visible_files


def wave_names(root: Path) -> list[str]:
    """Returns the relative names of the WAV files under `root`, in order."""
    return names_in(root, visible_files(root, (".wav", ".wave")))


def read_wave(path: Path) -> Recording:
    """Reads a WAV file as float32 `[T, channels]`, integers of any width scaled to [-1, 1).

    Raises:
        DataError: if it can't be read.
    """
    wavfile = require("scipy.io.wavfile")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that are no sound
            rate, samples = wavfile.read(path)
    except Exception as error:  # SciPy raises many types on broken files
        raise DataError(f"{path}: expected a WAV file, found: {first_line(error)}") from error
    samples = samples.reshape(len(samples), -1)
    channels = samples.shape[1]
    form = f"{rate:,} Hz and {channels} channel{'s' if channels > 1 else ''}"
    return Recording(in_units(samples), form)


def in_units(samples: np.ndarray) -> np.ndarray:
    """Returns samples as float32, the range of an integer dtype as [-1, 1).

    >>> in_units(np.array([0, 128, 255], np.uint8)), in_units(np.array([-32768, 16384], np.int16))
    (array([-1.       ,  0.       ,  0.9921875], dtype=float32), array([-1. ,  0.5], dtype=float32))
    """
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    # 24 bits come in the upper three bytes of int32; 8 bits are the only unsigned ones.
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    zero = half if samples.dtype.kind == "u" else 0.0
    return ((samples - zero) / half).astype(np.float32)
