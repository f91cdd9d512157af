"""Reconstruct your own pictures with a trained model.

vqvae reconstruct runs/fashion photo.jpg folder -o out

Writes `out/photo-reconstruction.png`: the original on the left, the reconstruction on the right.
The model is compiled once for each distinct size of padded pictures, so pictures of one size are
fast.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jaxtyping import Int, UInt8
from PIL import Image

from vqvae_commands.pages.plots import side_by_side
from vqvae_commands.run.code_streams import as_levels, quantizers
from vqvae_commands.terminal.terminal_table import print_lines
from vqvae_jax import Quantizer
from vqvae_jax.data import readers
from vqvae_jax.data.picture_files import image_files
from vqvae_jax.data.readers import DataError
from vqvae_jax.data.scaling import preprocess, to_pixels
from vqvae_jax.metrics import psnr, ssim
from vqvae_jax.models.input_checks import per_axis
from vqvae_jax.saving.bundle import DESCRIPTION, BundleError, load_model, write

MODES = {1: "L", 3: "RGB"}
similarity = jax.jit(partial(ssim, peak=255.0))


@dataclasses.dataclass(frozen=True)
class Config:
    """Reconstruct pictures of any size, and write each beside its reconstruction."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, or of a model alone."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Picture files, and folders of them."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """The folder for NAME-reconstruction.png; made if missing."""


@dataclasses.dataclass(frozen=True)
class Reconstructed:
    """One picture and its reconstruction, measured.

    Attributes:
        source, target: the picture, and the file with both.
        size: width and height in pixels.
        codes: width and height of each level's map, and the number of streams if not 1.
        psnr: in dB, between the two pictures as they are written.
        ssim: between the same two; None below 11 pixels a side.
        bits: log2 K for each code, those of the padding included.
    """

    source: Path
    target: Path
    size: tuple[int, int]
    codes: tuple[tuple[int, ...], ...]
    psnr: float
    ssim: float | None
    bits: float


def main(config: Config) -> list[Reconstructed]:
    """Plans all files, loads the model, and reconstructs the pictures one by one."""
    model, variables = load_any(config.run)
    plan = targets(picture_files(config.images), config.output)
    results = []
    for source, target in plan.items():
        original = read_picture(source, encoders(model)[-1].channels)
        reconstruction, maps = reconstruct(model, variables, original)
        both = to_image(side_by_side(original, reconstruction))
        config.output.mkdir(parents=True, exist_ok=True)
        write(target, partial(both.save, format="PNG"))
        bits = picture_bits(quantizers(model), maps)
        results.append(measure_picture(source, target, original, reconstruction, maps, bits))
    print_results(results, config.output)
    return results


def load_any(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a run's folder, or in the folder itself, and its variables.

    Raises:
        BundleError: no such folder, no model there, or one that does not take pictures.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such run")
    inner = folder / "model"
    bundle = load_model(inner if (inner / DESCRIPTION).is_file() else folder)
    check_takes_pictures(folder, bundle.model, bundle.variables)
    return bundle.model, bundle.variables


def check_takes_pictures(folder: Path, model, variables: dict[str, Any]) -> None:
    """Raises a BundleError unless the model's encoder halves pictures of 1 or 3 channels."""
    encoder = (encoders(model) or [None])[-1]
    channels = getattr(encoder, "channels", None)
    if channels not in MODES or not hasattr(encoder, "downsamplings"):
        found = type(encoder or model).__name__ + (f" of {channels} channels" if channels else "")
        raise BundleError(f"{folder}: expected an encoder of pictures, grey or RGB, found {found}")
    domain = getattr(model, "domain", None)
    if domain is not None and domain.dtype != "uint8":
        raise BundleError(f"{folder}: expected a model of pictures, found one of {domain.words}")
    weights = {k: v for k, v in variables["params"].items() if k.startswith("encoder")}
    axes = max(np.ndim(leaf) for leaf in jax.tree.leaves(weights)) - 2
    if axes != 2:
        raise BundleError(f"{folder}: expected an encoder of pictures, found {axes} spatial axes")


def encoders(model) -> tuple[Any, ...]:
    """The encoder of each level, the last one takes pictures; none in other models."""
    found = getattr(model, "encoders", None) or [getattr(model, "encoder", None)]
    return tuple(encoder for encoder in found if encoder is not None)


def picture_files(given: Iterable[Path]) -> list[Path]:
    """The files given and those in the folders given, each once, in order.

    Raises:
        DataError: nothing there, or a folder without pictures.
    """
    found: dict[Path, Path] = {}
    for path in given:
        if not path.exists():
            raise DataError(f"{path}: no such picture or folder")
        files = sorted(image_files(path)) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path}: expected pictures, found none")
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        raise DataError("expected pictures or folders of pictures, found none given")
    return list(found.values())


def targets(sources: Iterable[Path], folder: Path) -> dict[Path, Path]:
    """The file for each picture's result.

    Raises:
        DataError: two results of one name, or one in the place of an input.
    """
    plan = {source: folder / f"{source.stem}-reconstruction.png" for source in sources}
    inputs, taken = {source.resolve() for source in plan}, dict[Path, Path]()
    for source, target in plan.items():
        if target.resolve() in inputs:
            raise DataError(f"{target}: is an input and would be overwritten; use another folder")
        if target in taken:
            raise DataError(f"{taken[target]} and {source} would both be written to {target}")
        taken[target] = source
    return plan


def read_picture(path: Path, channels: int) -> UInt8[np.ndarray, "H W C"]:
    """A picture in the model's channels, transparency over white, turned as its EXIF data say.

    Raises:
        DataError: not a readable picture, or one of more than 8 bits a channel.
    """
    return readers.decode_image(path, MODES[channels], str(path))


def to_image(pixels: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """Pillow has no axis for a single channel."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def reconstruct(
    model, variables, original: UInt8[np.ndarray, "H W C"]
) -> tuple[UInt8[np.ndarray, "H W C"], tuple[Int[np.ndarray, "_ _ _"], ...]]:
    """The model's picture of the original's size, and the codes of each level; edges are padded."""
    height, width, _ = original.shape
    halvings = [per_axis("downsamplings", e.downsamplings, 2) for e in encoders(model)]
    rows, columns = (2 ** sum(axis) for axis in zip(*halvings, strict=True))
    padding = ((0, -height % rows), (0, -width % columns), (0, 0))
    pixels, maps = through(model, variables, np.pad(original, padding, mode="edge"))
    return np.asarray(pixels)[:height, :width], jax.device_get(maps)


@partial(jax.jit, static_argnums=0)
def through(model, variables, pixels):
    """One picture in bytes through the model: (its reconstruction in bytes, maps of codes)."""
    made = model.apply(variables, preprocess(pixels[None]))
    return to_pixels(made.x[0]), tuple(k[0] for k in as_levels(made.indices))


def picture_bits(levels: Sequence[Quantizer], maps: Sequence[Int[np.ndarray, "_ _ _"]]) -> float:
    """Bits of all codes at log2 K each."""
    return sum(
        math.prod(k.shape[:2]) * sum(map(math.log2, quantizer.vocab))
        for quantizer, k in zip(levels, maps, strict=True)
    )


def measure_picture(source, target, original, reconstruction, maps, bits: float) -> Reconstructed:
    """The row of the table."""
    height, width, _ = original.shape
    x, y = original.astype(np.float32), reconstruction.astype(np.float32)
    return Reconstructed(
        source,
        target,
        (width, height),
        tuple((w, h, *([q] if q > 1 else [])) for h, w, q in (k.shape for k in maps)),
        float(psnr(float(np.mean(np.square(x - y), dtype=np.float64)), 255.0)),
        float(similarity(x, y)) if min(width, height) >= 11 else None,
        bits,
    )


def print_results(results: list[Reconstructed], folder: Path) -> None:
    """Prints the table."""
    lines = [["file", "size", "codes", "PSNR (dB)", "SSIM", "bits"]]
    for r in results:
        sizes = [sides_text(r.size), " + ".join(map(sides_text, r.codes))]
        likeness = "" if r.ssim is None else f"{r.ssim:.4f}"
        lines.append([r.target.name, *sizes, f"{r.psnr:.2f}", likeness, f"{r.bits:,.0f}"])
    print_lines(lines, f"in {folder}, original left, reconstruction right")


def sides_text(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))
