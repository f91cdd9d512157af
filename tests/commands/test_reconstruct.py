"""Pictures of any size and mode through a model; bad ones give one line and exit code 2."""

import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

import vqvae_jax as vj
from vqvae_commands import reconstruct
from vqvae_commands.pages.plots import GAP
from vqvae_commands.run.recipe import hierarchy
from vqvae_commands.terminal import command
from vqvae_jax.data.readers import DataError

ROOT = Path(__file__).parents[2]


def save_random(folder: Path, model, *shape: int) -> Path:
    """Without running `init`, which would compile for seconds."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    random = jax.tree.map(lambda s: rng.normal(0, 0.2, s.shape).astype(s.dtype), shapes)
    vj.save_model(folder, model, random)
    return folder


def save_random_vqvae(folder: Path, channels: int, *sides: int) -> Path:
    inner = {"width": 8, "depth": 1}
    encoder, decoder = vj.Encoder(channels, 4, **inner), vj.Decoder(channels, 4, **inner)
    return save_random(folder, vj.VQVAE(encoder, vj.vq(16, 4), decoder), *sides, channels)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A run: the model is in its sub-folder."""
    return save_random_vqvae(tmp_path_factory.mktemp("grey") / "model", 1, 8, 8).parent


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A model alone."""
    return save_random_vqvae(tmp_path_factory.mktemp("colour"), 3, 8, 8)


def test_levels_of_codes(tmp_path):
    model = hierarchy(1, [vj.vq(4, 3), vj.vq(16, 5)], 3, width=8, depth=1)
    run = save_random(tmp_path / "model", model, 8, 8, 1)
    (result,) = rec(run, save(tmp_path / "a.png", noise(13, 18)), to=tmp_path / "out")
    _, right = halves(result.target)
    assert right.shape == (13, 18)
    assert result.codes == ((3, 2), (6, 4)) and result.bits == 6 * 2 + 24 * 4


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def rec(run: Path, *images: Path, to: Path) -> list[reconstruct.Reconstructed]:
    return reconstruct.main(reconstruct.Config(run, images, to))


def halves(path: Path) -> tuple[np.ndarray, np.ndarray]:
    both = np.asarray(Image.open(path))
    width = (both.shape[1] - GAP) // 2
    return both[:, :width], both[:, width + GAP :]


@pytest.mark.parametrize("size", [(13, 18), (1, 5), (11, 30)])
def test_grey_pictures_keep_their_size(grey, tmp_path, size):
    pixels = noise(*size)
    (result,) = rec(grey, save(tmp_path / "a.png", pixels), to=tmp_path / "out")
    left, right = halves(tmp_path / "out" / "a-reconstruction.png")
    assert (left == pixels).all() and right.shape == size
    assert result.size == size[::-1]
    assert result.codes == (tuple(math.ceil(side / 4) for side in size[::-1]),)
    assert result.bits == 4 * math.prod(result.codes[0])
    mse = np.mean((left.astype(float) - right) ** 2)
    np.testing.assert_allclose(result.psnr, 10 * np.log10(255**2 / mse), rtol=1e-5)
    assert (result.ssim is None) == (min(size) < 11)


def test_colour_and_the_padding(colour, tmp_path):
    """Right and bottom are padded by the edge: the result is that of the padded picture, cut."""
    pixels = noise(10, 15, 3)
    rec(colour, save(tmp_path / "a.png", pixels), to=tmp_path)
    left, right = halves(tmp_path / "a-reconstruction.png")
    padded = pixels[np.minimum(np.arange(12), 9)][:, np.minimum(np.arange(16), 14)]
    model, variables, _ = vj.load_model(colour)
    x = jax.jit(model.apply)(variables, padded[None] / np.float32(255) - np.float32(0.5)).x[0]
    expected = np.clip(np.round((np.asarray(x) + 0.5) * 255), 0, 255)[:10, :15]
    assert (left == pixels).all()
    np.testing.assert_allclose(right.astype(int), expected, atol=1)  # rounding of a tie
    assert np.mean(right == expected) > 0.99


def test_transparency_is_over_white_and_modes_are_converted(colour, grey, tmp_path):
    rgba = noise(8, 8, 4)
    rgba[:, :4, 3], rgba[:, 4:, 3] = 0, 255
    rec(colour, save(tmp_path / "a.png", rgba), to=tmp_path)
    left, _ = halves(tmp_path / "a-reconstruction.png")
    assert (left[:, :4] == 255).all() and (left[:, 4:] == rgba[:, 4:, :3]).all()

    palette = Image.fromarray(noise(8, 8, 3)).quantize(7)
    palette.save(tmp_path / "p.png")
    rec(colour, tmp_path / "p.png", to=tmp_path)
    assert (
        halves(tmp_path / "p-reconstruction.png")[0] == np.asarray(palette.convert("RGB"))
    ).all()

    rec(grey, save(tmp_path / "c.png", rgba[..., :3]), to=tmp_path)
    luma = np.asarray(Image.fromarray(rgba[..., :3]).convert("L"))
    assert (halves(tmp_path / "c-reconstruction.png")[0] == luma).all()

    rec(colour, save(tmp_path / "l.png", luma), to=tmp_path)
    assert (halves(tmp_path / "l-reconstruction.png")[0] == luma[..., None]).all()


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_pictures_are_turned_as_their_exif_says(grey, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", noise(8, 12), exif=exif)
    rec(grey, path, to=tmp_path)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert turned.shape == ((8, 12) if orientation < 5 else (12, 8))
    assert (halves(tmp_path / "a-reconstruction.png")[0] == turned).all()


def test_folders_and_doubles(grey, tmp_path, capsys):
    """A folder gives its pictures at any depth and no other file; a picture counts once."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    first = save(tmp_path / "in" / "a.jpg", noise(8, 8))
    save(tmp_path / "in" / "deep" / "b.webp", noise(8, 8))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    results = rec(grey, first, tmp_path / "in", to=tmp_path / "out")
    assert [r.source.name for r in results] == ["a.jpg", "b.webp"]
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["a-reconstruction.png", "b-reconstruction.png"]
    printed = capsys.readouterr().out
    assert all(text in printed for text in (*names, "8x8", "2x2", "PSNR", "SSIM"))


def test_a_name_is_not_markup(grey, tmp_path, capsys):
    rec(grey, save(tmp_path / "[red]x.png", noise(8, 8)), to=tmp_path)
    assert "[red]x-reconstruction.png" in capsys.readouterr().out


def test_one_compilation_for_each_padded_size(grey, tmp_path, monkeypatch):
    """Sizes 13 x 5 and 16 x 8 pad to the same, 17 x 8 does not."""
    shapes = []
    preprocess = reconstruct.preprocess
    monkeypatch.setattr(
        reconstruct, "preprocess", lambda x: shapes.append(x.shape) or preprocess(x)
    )
    reconstruct.through.clear_cache()
    sizes = [(13, 5), (16, 8), (17, 8), (13, 5)]
    files = [save(tmp_path / f"{i}.png", noise(*size)) for i, size in enumerate(sizes)]
    rec(grey, *files, to=tmp_path / "out")
    assert shapes == [(1, 16, 8, 1), (1, 20, 8, 1)]


def test_streams_and_equal_pictures():
    maps, pixels = (np.zeros((2, 3, 2), int), np.zeros((4, 6, 1), int)), noise(12, 12, 3)
    bits = reconstruct.picture_bits([vj.grouped(vj.vq(4, 1), vj.vq(8, 1)), vj.vq(2, 1)], maps)
    result = reconstruct.measure_picture(Path("a"), Path("b"), pixels, pixels, maps, bits)
    assert result.codes == ((3, 2, 2), (6, 4)) and result.bits == 6 * 5 + 24
    assert result.psnr == math.inf and result.ssim == pytest.approx(1)


def test_results_that_would_meet_are_refused(grey, tmp_path):
    files = [save(tmp_path / "a.png", noise(8, 8)), save(tmp_path / "a.jpg", noise(8, 8))]
    with pytest.raises(DataError, match=r"a\.png and .*a\.jpg would both be written to"):
        rec(grey, *files, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_overwritten(grey, tmp_path):
    pair = tmp_path / "in"
    pair.mkdir()
    save(pair / "a.png", noise(8, 8))
    kept = save(pair / "a-reconstruction.png", noise(8, 8)).read_bytes()
    (tmp_path / "link").symlink_to(pair)
    with pytest.raises(DataError, match="is an input and would be overwritten"):
        rec(grey, pair, to=tmp_path / "link")
    assert (pair / "a-reconstruction.png").read_bytes() == kept


def run_command(capsys, *args: object) -> tuple[int, str]:
    """`command.run` in this process: (exit code, what is on stderr)."""
    with pytest.raises(SystemExit) as stop:
        command.run(reconstruct.main, reconstruct.Config, [str(a) for a in args])
    return stop.value.code, capsys.readouterr().err


def check_one_line(code: int, err: str, *texts: str) -> None:
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert all(text in err for text in texts), err


def test_bad_pictures_give_one_line(grey, tmp_path, capsys):
    out = tmp_path / "out"
    deep = save(tmp_path / "deep.png", np.zeros((8, 8), np.uint16))
    cut = save(tmp_path / "cut.png", noise(64, 64))
    cut.write_bytes(cut.read_bytes()[:200])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "missing.png": "no such picture",
        deep: "expected 8 bits per channel, found 16 bits",
        cut: "expected a readable image",
        text: "expected a readable image",
        tmp_path / "empty": "found none",
    }
    for path, message in cases.items():
        check_one_line(*run_command(capsys, grey, path, "-o", out), str(path), message)
    check_one_line(*run_command(capsys, grey, "-o", out), "found none given")
    assert not out.exists() or not list(out.iterdir())


def test_bad_runs_and_outputs_give_one_line(grey, tmp_path, capsys):
    picture = save(tmp_path / "a.png", noise(8, 8))
    bad = tmp_path / "bad"
    bad.mkdir()

    def check(run, out, *texts):
        check_one_line(*run_command(capsys, run, picture, "-o", out), *texts)

    check(tmp_path / "none", bad, "no such run")
    check(bad, bad, "no model in", str(bad))
    check(grey, picture, str(picture), "File exists")
    check(grey, picture / "inside", "Not a directory")
    (bad / "model.json").write_text("{")
    check(bad, bad, "is damaged")


def test_models_of_other_data_give_one_line(tmp_path, capsys):
    picture = save(tmp_path / "a.png", noise(8, 8))
    vectors = vj.VQVAE(vj.MLP(4, width=4), vj.vq(8, 4), vj.MLP(3, width=4))
    runs = {
        save_random(tmp_path / "vectors", vectors, 3): "MLP",
        save_random_vqvae(tmp_path / "sound", 1, 8): "1 spatial axes",
        save_random_vqvae(tmp_path / "five", 5, 8, 8): "5 channels",
    }
    for run, found in runs.items():
        code, err = run_command(capsys, run, picture, "-o", tmp_path / "out")
        check_one_line(code, err, "expected an encoder of pictures", found)


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError("a\nb"), 2), (OSError(28, "full", "x"), 2), (KeyboardInterrupt(), 130)],
)
def test_expected_errors_end_a_command(error, code, capsys):
    def main(config):
        raise error

    with pytest.raises(SystemExit) as stop:
        command.run(main, reconstruct.Config, ["run", "a.png", "-o", "out"])
    assert stop.value.code == code
    expected = {2: ("error: a b\n", "error: x: full\n"), 130: ("stopped\n",)}
    assert capsys.readouterr().err in expected[code]


def test_mistakes_of_the_program_keep_their_traceback():
    def main(config):
        raise TypeError("a mistake")

    with pytest.raises(TypeError, match="a mistake"):
        command.run(main, reconstruct.Config, ["run", "a.png", "-o", "out"])


def start(*args: object) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "experiments.reconstruct", *map(str, args)]
    # A wide table, so that names are not folded.
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_command(grey, tmp_path):
    picture = save(tmp_path / "a.png", noise(9, 13))
    done = start(grey, picture, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "a-reconstruction.png" in done.stdout and "13x9" in done.stdout
    assert "Traceback" not in done.stderr
    failed = start(grey, tmp_path / "none.png", "-o", tmp_path / "out")
    assert failed.returncode == 2 and failed.stdout == ""
    assert failed.stderr == f"error: {tmp_path / 'none.png'}: no such picture or folder\n"


def test_a_model_of_other_numbers_than_pixels_is_refused(tmp_path, capsys):
    picture = save(tmp_path / "a.png", noise(8, 8))
    bundle = vj.load_model(save_random_vqvae(tmp_path / "fields", 3, 8, 8))
    vj.save_model(tmp_path / "fields", bundle.model.clone(domain=vj.values(0, 9)), bundle.variables)
    code, err = run_command(capsys, tmp_path / "fields", picture, "-o", tmp_path / "out")
    check_one_line(code, err, "expected a model of pictures, found one of floats from 0 to 9")
