"""Folders of shards: what is written is read, what is damaged is named, nothing is held."""

import gc
import io
import itertools
import json
import os
import tracemalloc

import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image

from vqvae_jax.data import records, writing
from vqvae_jax.data.background import record_batches
from vqvae_jax.data.pipeline import batches, take_batches
from vqvae_jax.data.records import Records, check_records, open_records
from vqvae_jax.data.sources import DataError, folder, open_source, stream
from vqvae_jax.data.writing import write_records

N, SHARDS = 50, 3


def noise(n=N, shape=(6, 5, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def jpeg(image, quality=90):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return out.getvalue()


@pytest.fixture
def written(tmp_path):
    write_records(tmp_path / "set", {"train": noise(), "test": noise(7, seed=1)}, SHARDS)
    return tmp_path / "set"


def take(iterator, count):
    return list(itertools.islice(iterator, count))


@pytest.mark.parametrize(
    "rows",
    [
        noise(),
        noise(shape=(6, 5, 1)),
        noise(shape=(6, 5, 4)),
        noise(shape=(6, 5, 2)),
        noise(shape=(9,)),
        np.random.default_rng(0).normal(size=(N, 4, 3)).astype(np.float32),
        np.random.default_rng(0).normal(size=(N, 2)).astype(np.float16),
    ],
    ids=lambda rows: f"{rows.dtype}{rows.shape[1:]}",
)
@pytest.mark.parametrize("shards", [1, SHARDS, N])
def test_rows_come_back_bit_by_bit_and_in_order(rows, shards, tmp_path):
    write_records(tmp_path / "set", {"train": rows}, shards)
    found = open_records(tmp_path / "set", "train")
    assert (found.shape, found.dtype, len(found)) == (rows.shape, rows.dtype, N)
    np.testing.assert_array_equal(found[:], rows)
    np.testing.assert_array_equal(found[-3:], rows[-3:])
    order = np.array([49, 0, 7, 7, -1])
    np.testing.assert_array_equal(found[order], rows[order])
    assert found[5:5].shape == (0, *rows.shape[1:])
    with pytest.raises(IndexError):
        found[np.array([N])]


def test_encoded_images_are_kept_as_they_are(tmp_path):
    files = [jpeg(image) for image in noise(4, (16, 16, 3))]
    write_records(tmp_path / "set", {"train": files}, 2)
    stored = b"".join(f.read_bytes() for f in sorted((tmp_path / "set").glob("*.array_record")))
    assert all(file in stored for file in files)
    expected = [np.asarray(Image.open(io.BytesIO(file))) for file in files]
    np.testing.assert_array_equal(open_records(tmp_path / "set", "train")[:], expected)
    write_records(tmp_path / "grey", {"train": files}, mode="L")
    assert open_records(tmp_path / "grey", "train").shape == (4, 16, 16, 1)


def test_take_batches_reads_records_in_order(written):
    pairs = list(take_batches(open_records(written, "test"), 4))
    rows = np.concatenate([batch for batch, _ in pairs])
    np.testing.assert_array_equal(rows[:7], noise(7, seed=1))
    assert [mask.sum() for _, mask in pairs] == [4, 3] and not rows[7:].any()


@pytest.mark.parametrize("start", [0, 17])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_equal_those_in_memory(written, start, workers):
    """Across two ends of an epoch, and from a step in the middle as a resumed run does."""
    rows = open_records(written, "train")
    found = take(record_batches(rows, 5, 8, start, workers=workers), 14)
    np.testing.assert_array_equal(found, take(batches(noise(), 5, 8, start), 14))


@pytest.mark.parametrize("count", [2, 4])
def test_shares_of_processes_together_are_the_batch(written, count):
    rows = open_records(written, "train")
    shares = [
        take(record_batches(rows, 0, 8, 3, process_index=i, process_count=count), 10)
        for i in range(count)
    ]
    assert shares[0][0].shape == (8 // count, 6, 5, 3)
    whole = [np.concatenate(parts) for parts in zip(*shares, strict=True)]
    np.testing.assert_array_equal(whole, take(batches(noise(), 0, 8, 3), 10))


def test_a_state_of_grain_resumes_too(written):
    made = record_batches(open_records(written, "train"), 0, 8)
    take(made, 3)
    state, expected = made.get_state(), take(made, 4)
    again = record_batches(open_records(written, "train"), 0, 8)
    again.set_state(state)
    np.testing.assert_array_equal(take(again, 4), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "at least 1 worker, found 0"),
        ({"start": -1}, "step of at least 0, found -1"),
        ({"process_count": 3}, "a divisor of the batch size 8, found process 0 of 3"),
        ({"process_index": 2, "process_count": 2}, "found process 2 of 2"),
        ({"process_index": -1, "process_count": 2}, "found process -1 of 2"),
    ],
)
def test_bad_arguments_raise_before_the_first_batch(options, message):
    with pytest.raises(ValueError, match=message):
        record_batches(noise(), 0, 8, **options)


def test_only_what_is_asked_for_is_decoded(written):
    """Of a million rows a few batches: no more than the workers keep ready."""
    seen = []

    def example(i):
        seen.append(i)
        return np.full(3, i)

    made = record_batches(Records((10**6, 3), np.dtype(int), example), 0, 10, workers=2)
    assert seen == []
    take(made, 5)
    made.close()
    assert 50 <= len(seen) <= (5 + 2 * 2) * 10


@pytest.fixture
def default_gc():
    """Cycles collected as often as users have it: `conftest` makes it rarer."""
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_memory_does_not_grow_with_the_records(tmp_path, default_gc):
    def peak(n):
        row = np.zeros(2000, np.float32)
        write_records(tmp_path / str(n), {"train": itertools.repeat(row, n)}, 2)
        rows = open_records(tmp_path / str(n), "train")
        tracemalloc.start()
        for _ in itertools.islice(record_batches(rows, 0, 16), n // 16):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(64)  # imports
    small, large = peak(300), peak(2000)
    assert large < small + 500_000  # the rows take 16,000,000 bytes


class Stop(BaseException):
    """As a Ctrl-C."""


@pytest.mark.parametrize("error", [Stop, ValueError])
def test_a_stopped_writer_leaves_nothing(error, tmp_path):
    def rows():
        yield from noise(30)
        raise error

    with pytest.raises(error):
        write_records(tmp_path / "set", {"test": noise(5), "train": rows()}, SHARDS)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    class Full(array_record_module.ArrayRecordWriter):
        def write(self, record):
            raise RuntimeError("write() failed: No space left on device\nand more")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Full)
    with pytest.raises(DataError, match=r"00000-of-00001.* can't be written: .*space") as found:
        write_records(tmp_path / "set", {"train": noise()})
    assert "\n" not in str(found.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([noise()[0], noise(shape=(6, 4, 3))[0]], {}, r"train example 1: .*6, 5, 3.*found .*6, 4"),
        ([noise()[0], np.ones((6, 5, 3))], {}, "train example 1: expected uint8 .*found float64"),
        ([noise()[0], jpeg(noise(shape=(8, 8, 3))[0])], {}, r"example 1: .*found uint8 \(8, 8, 3"),
        ([b"no image"], {}, "train example 0: expected a readable image"),
        ([], {}, "train: expected an example for each of 1 shards, found 0"),
        (noise(2), {"shards": 3}, "an example for each of 3 shards, found 2"),
        (noise(2), {"shards": 0}, "at least 1 shard, found 0"),
    ],
)
def test_what_cannot_be_kept_is_refused(rows, options, message, tmp_path):
    with pytest.raises(DataError, match=message):
        write_records(tmp_path / "set", {"train": rows}, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_never_touched(written):
    before = {file.name: file.read_bytes() for file in written.iterdir()}
    with pytest.raises(DataError, match="set: expected a new folder, found one that exists"):
        write_records(written, {"train": noise(seed=3)})
    assert {file.name: file.read_bytes() for file in written.iterdir()} == before


SHARD = "train-00001-of-00003.array_record"


def rewrite(file, change):
    """The shard written again, its records changed, and the description of it too."""
    reader = array_record_module.ArrayRecordReader(str(file))
    kept = reader.read_all()
    reader.close()
    writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1,uncompressed")
    for record in change(kept):
        writer.write(record)
    writer.close()
    describe(file, bytes=file.stat().st_size)


def describe(file, **changes):
    path = file.parent / records.DESCRIPTION
    document = json.loads(path.read_text())
    document["splits"]["train"]["shards"][1] |= changes
    path.write_text(json.dumps(document))


def flip(file, record=2):
    """One bit in the middle of a record."""
    reader = array_record_module.ArrayRecordReader(str(file))
    kept = reader.read([record])[0]
    reader.close()
    data = bytearray(file.read_bytes())
    data[data.index(kept) + len(kept) // 2] ^= 1
    file.write_bytes(data)


def png(image):
    return writing.spec_of(image).encode(image)


AT_OPENING = {
    "missing": (lambda f: f.unlink(), r"expected \d+ bytes, found no such file"),
    "truncated": (lambda f: os.truncate(f, 1000), r"expected \d+ bytes, found 1000 bytes"),
    "empty": (lambda f: os.truncate(f, 0), r"expected \d+ bytes, found 0 bytes"),
}
WHEN_READ = {
    "bit": (flip, "record 2: expected a complete record, found: .*hash mismatch"),
    "zeros": (lambda f: f.write_bytes(bytes(f.stat().st_size)), "expected a complete record"),
    "no image": (
        lambda f: rewrite(f, lambda kept: [*kept[:2], b"no image", *kept[3:]]),
        "record 2: expected a readable image, found: cannot identify",
    ),
    "half an image": (
        lambda f: rewrite(f, lambda kept: [*kept[:2], kept[2][:80], *kept[3:]]),
        "record 2: expected a readable image",
    ),
    "shape": (
        lambda f: rewrite(f, lambda kept: [*kept[:2], png(noise()[0][:, :4]), *kept[3:]]),
        r"record 2: expected uint8 \(6, 5, 3\), found uint8 \(6, 4, 3\)",
    ),
    "fewer records": (
        lambda f: rewrite(f, lambda kept: kept[:-1]),
        "record 16: expected a complete record, found: index 16 out of bound 16",
    ),
}


def one_line(found, message):
    assert found.match(f"set/{SHARD}.*{message}") and "\n" not in str(found.value)


@pytest.mark.parametrize("fault", AT_OPENING)
def test_a_missing_or_truncated_shard_is_named_at_once(fault, written):
    damage, message = AT_OPENING[fault]
    damage(written / SHARD)
    for read in (lambda: open_source(str(written))("train"), lambda: check_records(written)):
        with pytest.raises(DataError) as found:
            read()
        one_line(found, message)
    assert len(open_source(str(written))("test")) == 7


@pytest.mark.parametrize("fault", WHEN_READ)
def test_a_damaged_record_is_named_when_it_is_read(fault, written):
    damage, message = WHEN_READ[fault]
    damage(written / SHARD)
    rows = open_records(written, "train")
    np.testing.assert_array_equal(rows[::SHARDS], noise()[::SHARDS])  # the other shards are whole
    with pytest.raises(DataError) as found:
        rows[:]
    one_line(found, message)
    with pytest.raises(DataError) as found:
        take(record_batches(rows, 0, 8, workers=1), 7)
    one_line(found, "expected")
    with pytest.raises(DataError, match=f"{SHARD}: expected SHA-256 .*, found SHA-256"):
        check_records(written)


def test_arrays_that_are_damaged_are_named(tmp_path):
    write_records(tmp_path / "set", {"train": np.ones((N, 4), np.float32)}, SHARDS)
    other = writing.spec_of(np.ones(4, np.float16)).encode(np.ones(4, np.float16))
    rewrite(tmp_path / "set" / SHARD, lambda kept: [kept[0][:-1], other, *kept[2:]])
    rows = open_records(tmp_path / "set", "train")
    with pytest.raises(DataError) as found:
        rows[1:2]
    one_line(found, "record 0: expected a .npy array, found")
    with pytest.raises(DataError) as found:
        rows[4:5]
    one_line(found, r"record 1: expected float32 \(4,\), found float16 \(4,\)")


def described(**changes):
    split = {"count": 1, "shape": [6, 5, 3], "dtype": "uint8", "encoding": "image"}
    split |= {"shards": [{"bytes": 1, "sha256": ""}]} | changes
    return json.dumps({"format": 1, "splits": {"train": split}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "records.json: expected a description of records, found"),
        ("[]", "records.json: expected format 1, found None"),
        ('{"format": 9}', "records.json: expected format 1, found 9"),
        ('{"format": 1}', r"expected a split 'train', found \[\]"),
        ('{"format": 1, "splits": {"train": {}}}', "records.json: .*'train' described.*'shape'"),
        ('{"format": 1, "splits": {"train": 3}}', "records.json: .*'train' described"),
        (described(encoding="webm"), r"images or .npy, found webm of \(6, 5, 3\), 1 in 1 shards"),
        (described(shape=[6, 5, 2]), r"images or .npy, found image of \(6, 5, 2\), 1 in 1 shards"),
        (described(shape=[]), r"images or .npy, found image of \(\), 1 in 1 shards"),
        (described(count=0), r"images or .npy, found image of .*, 0 in 1 shards"),
        (described(dtype="wide"), "records.json: .*'train' described.*wide"),
    ],
)
def test_a_damaged_description_is_named(text, message, written):
    (written / records.DESCRIPTION).write_text(text)
    with pytest.raises(DataError, match=message):
        open_records(written, "train")


def test_a_split_that_was_not_written(tmp_path):
    write_records(tmp_path / "set", {"train": noise()})
    with pytest.raises(DataError, match=r"expected a split 'test', found \['train'\]"):
        open_source(str(tmp_path / "set"))("test")


def test_a_folder_of_images_streams_its_crops_and_keeps_whole_files(tmp_path):
    root = tmp_path / "photos/train"
    root.mkdir(parents=True)
    whole = jpeg(noise(1, (8, 8, 3))[0])
    (root / "b.jpg").write_bytes(whole)
    Image.fromarray(noise(1, (17, 30, 3))[0]).save(root / "a.png")
    Image.fromarray(noise(1, (4, 30, 3))[0]).save(root / "small.png")
    (tmp_path / "photos/test").mkdir()
    with pytest.warns(UserWarning, match="skipped 1 of 3 files for train: train/small.png"):
        expected = folder(tmp_path / "photos", 8)("train")
    with pytest.warns(UserWarning, match="skipped 1 of 3 files for train: train/small.png"):
        source = folder(tmp_path / "photos", 8)
        examples = list(stream(str(source.root), "train", source).examples)
    assert len(examples) == 2 * 3 + 1 and examples[-1] == whole
    write_records(tmp_path / "set", {"train": examples}, 2)
    np.testing.assert_array_equal(open_records(tmp_path / "set", "train")[:], expected)


def test_records_can_be_sharded_again(written, tmp_path):
    part = stream(str(written), "train")
    write_records(tmp_path / "again", {"train": part.examples}, part.total // 10)
    np.testing.assert_array_equal(open_records(tmp_path / "again", "train")[:], noise())
