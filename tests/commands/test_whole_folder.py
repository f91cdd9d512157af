"""A folder is written whole or not at all, and what was there is kept until then."""

from pathlib import Path

import pytest

from vqvae_commands.run.whole_folder import whole_folder


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_folder_stays_as_it_was_until_all_is_written(tmp_path, stop):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/a").write_text("before")

    def write(folder: Path) -> None:
        with whole_folder(folder, "files", lambda known: True) as partial:
            (partial / "a").write_text("after")
            raise stop

    for name in ("old", "new"):
        with pytest.raises(stop):
            write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old/a").read_text() == "before"


def test_a_folder_is_put_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/a").write_text("before")
    rename = Path.rename

    def second_fails(path: Path, target: Path) -> Path:
        if ".new-" in path.name:
            raise OSError("disk full")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with (
        pytest.raises(OSError, match="disk full"),
        whole_folder(tmp_path / "old", "files", lambda known: True) as partial,
    ):
        (partial / "a").write_text("after")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old/a").read_text() == "before"
