import numpy as np
import pytest
from PIL import Image

from vqvae_jax.data.picture_folders import SkippedPictures
from vqvae_jax.data.sources import DataError, folder, open_source


def noise(height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def both_splits(root):
    """Sub-folders for the splits, so that a test decides where its images go."""
    for split in ("train", "test"):
        (root / split).mkdir()
    return root / "train"


def test_crops_are_the_centred_grid(tmp_path):
    train = both_splits(tmp_path)
    image = noise(11, 14)
    save(train / "a.png", image)
    crops = folder(tmp_path, size=4)("train")
    assert (crops.shape, crops.dtype) == ((2 * 3, 4, 4, 3), np.uint8)
    for i, crop in enumerate(crops):
        top, left = 1 + 4 * (i // 3), 1 + 4 * (i % 3)
        np.testing.assert_array_equal(crop, image[top : top + 4, left : left + 4])


def test_all_formats_are_found_recursively_in_the_order_of_names(tmp_path):
    train = both_splits(tmp_path)
    images = [np.full((4, 4, 3), value, np.uint8) for value in (10, 60, 110, 160)]
    names = ("a/z.PNG", "b/c/d.webp", "b.jpg", "c.jpeg")
    for name, image in zip(names, images, strict=True):
        save(train / name, image, **({"lossless": True} if name.endswith("webp") else {}))
    (train / "notes.txt").write_text("not an image")
    found = folder(tmp_path, size=4)("train")
    order = sorted(range(4), key=lambda i: names[i])
    np.testing.assert_allclose(found, np.stack(images)[order].astype(int), atol=1)


def test_hashed_splits_are_stable_disjoint_and_about_one_in_ten(tmp_path):
    for i in range(200):
        save(tmp_path / f"{i % 7}/{i}.png", np.full((2, 2), i, np.uint8))
    first = {s: set(folder(tmp_path, 2, "L")(s)[:, 0, 0, 0].tolist()) for s in ("train", "test")}
    assert first["train"] | first["test"] == set(range(200))
    assert not first["train"] & first["test"]
    assert 10 <= len(first["test"]) <= 32
    for i in range(200, 256):
        save(tmp_path / f"{i}.png", np.full((2, 2), i, np.uint8))
    assert first["test"] <= set(folder(tmp_path, 2, "L")("test")[:, 0, 0, 0].tolist())


def test_sub_folders_are_the_splits_when_both_exist(tmp_path):
    save(tmp_path / "train/a.png", np.full((2, 2), 1, np.uint8))
    save(tmp_path / "test/a.png", np.full((2, 2), 2, np.uint8))
    save(tmp_path / "elsewhere/a.png", np.full((2, 2), 3, np.uint8))
    source = open_source(str(tmp_path), size=2)
    assert (source("train") == 1).all() and (source("test") == 2).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_other_modes_are_converted(mode, tmp_path):
    train = both_splits(tmp_path)
    image = Image.fromarray(np.full((2, 2, 3), 255, np.uint8)).convert(mode)
    suffix = "jpg" if mode == "CMYK" else "png"
    image.save(train / f"a.{suffix}")
    for asked, channels in (("RGB", 3), ("L", 1)):
        white = folder(tmp_path, 2, asked)("train")
        np.testing.assert_array_equal(white, np.full((1, 2, 2, channels), 255))


def test_transparency_is_over_white(tmp_path):
    train = both_splits(tmp_path)
    save(train / "a.png", np.array([[[0, 0, 0, 0], [0, 0, 0, 255]]] * 2, np.uint8))
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([200, 0, 0])
    palette.save(train / "b.png", transparency=0)
    first, second = folder(tmp_path, 2)("train")
    np.testing.assert_array_equal(first[0], [[255, 255, 255], [0, 0, 0]])
    np.testing.assert_array_equal(second, np.full((2, 2, 3), 255))


def sixteen_bit_colour_png():
    """Pillow writes none: signature, header with depth 16 and colour type 2, and one pixel."""
    import zlib

    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = (1).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    data = zlib.compress(bytes(7))
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def test_deep_images_raise(tmp_path):
    train = both_splits(tmp_path)
    save(train / "grey16.png", np.full((2, 2), 1000, np.uint16))
    with pytest.raises(DataError, match=r"grey16.png: expected 8 bits .*found 16 bits"):
        folder(tmp_path, 2)("train")
    (train / "grey16.png").unlink()
    (train / "colour16.png").write_bytes(sixteen_bit_colour_png())
    with pytest.raises(DataError, match=r"colour16.png: expected 8 bits .*found 16 bits"):
        folder(tmp_path, 1)("train")
    (train / "colour16.png").unlink()
    save(train / "float.tif", np.ones((2, 2), np.float32))
    with pytest.raises(DataError, match=r"float.tif: expected 8 bits .*found 32 bits"):
        folder(tmp_path, 2)("train")


def test_small_images_are_skipped_with_one_warning(tmp_path):
    train = both_splits(tmp_path)
    for i, side in enumerate((8, 3, 2)):
        save(train / f"{i}.png", noise(side, 9))
    with pytest.warns(SkippedPictures, match="skipped 2 of 3 files for train: .*1.png: ") as caught:
        assert folder(tmp_path, 4)("train").shape == (4, 4, 4, 3)
    assert len(caught) == 1
    with pytest.raises(DataError, match=r"none .* among 3: .* 9 x 9 pixels, found 9 x 8"):
        folder(tmp_path, 9)("train")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("kept", [0, 20, 0.5, 0.9])
def test_broken_images_are_named(suffix, kept, tmp_path):
    file = both_splits(tmp_path) / f"broken.{suffix}"
    save(file, noise(32, 32))
    data = file.read_bytes()
    file.write_bytes(data[: kept if kept in (0, 20) else int(len(data) * kept)])
    with pytest.raises(DataError, match=rf"broken.{suffix}: expected a readable image") as error:
        folder(tmp_path, 8)("train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("size", "mode", "message"),
    [
        (0, "RGB", "expected a crop size of at least 1, found 0"),
        (None, "RGB", "needs a size, found none; resize scales each picture"),
        (8, "HSV", "expected mode 'RGB' or 'L', found 'HSV'"),
    ],
)
def test_wrong_arguments_raise_at_once(size, mode, message, tmp_path):
    with pytest.raises(DataError, match=message):
        folder(tmp_path, size, mode)


def test_empty_folders_and_splits_raise(tmp_path):
    with pytest.raises(DataError, match="images for split 'train', found none among 0"):
        folder(tmp_path, 2)("train")
    both_splits(tmp_path)
    save(tmp_path / "train/a.png", noise(2, 2))
    with pytest.raises(DataError, match=r"split 'test', found none among 1; put them into sub-"):
        folder(tmp_path, 2)("test")


def test_a_folder_of_images_needs_a_size(tmp_path):
    save(tmp_path / "a.png", noise(2, 2))
    with pytest.raises(DataError, match="a folder of pictures needs a size, found none"):
        open_source(str(tmp_path))
