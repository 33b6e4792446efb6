"""Folders that are complete or not there, their files, and copies that share bytes."""

import os

import pytest
from clara.bases.folders import check_free, complete_folder, copy_or_link, list_files


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "model"
    with complete_folder(target) as folder:
        (folder / "a.txt").write_text("abc")
        assert not target.exists()
    assert (target / "a.txt").read_text() == "abc"
    assert [path.name for path in target.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_is_left(tmp_path, error):
    with pytest.raises(error), complete_folder(tmp_path / "model") as folder:
        (folder / "a.txt").write_text("abc")
        raise error
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept(tmp_path):
    (tmp_path / "model").mkdir()
    check_free(tmp_path / "model")
    (tmp_path / "model" / "own.txt").write_text("mine")
    for target in (tmp_path / "model", tmp_path / "model" / "own.txt"):
        with pytest.raises(FileExistsError, match="is there already: remove it"), complete_folder(target):
            pass
    assert (tmp_path / "model" / "own.txt").read_text() == "mine"


def test_files_are_listed_with_their_bytes(tmp_path):
    (tmp_path / "b" / ".c").mkdir(parents=True)
    (tmp_path / "b" / ".c" / "d.txt").write_text("12345")
    (tmp_path / "a.txt").write_text("ü")
    assert list_files(tmp_path) == {"a.txt": 2, "b/.c/d.txt": 5}


def test_large_files_share_their_bytes_and_small_ones_are_copied(tmp_path):
    for name, size in (("large", 1_000_001), ("small", 10)):
        (tmp_path / name).write_bytes(b"x" * size)
        copy_or_link(str(tmp_path / name), str(tmp_path / f"{name}-copy"))
        assert (tmp_path / f"{name}-copy").read_bytes() == b"x" * size
    assert os.path.samefile(tmp_path / "large", tmp_path / "large-copy")
    assert not os.path.samefile(tmp_path / "small", tmp_path / "small-copy")


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "large").write_bytes(b"x" * 1_000_001)
    copy_or_link(str(tmp_path / "large"), str(tmp_path / "copy"))
    assert (tmp_path / "copy").stat().st_size == 1_000_001
    with pytest.raises(FileExistsError):
        copy_or_link(str(tmp_path / "large"), str(tmp_path / "copy"))
