"""JSON files: reading is limited in size and depth, writing is atomic."""

import json
import os
from pathlib import Path

import pytest

from dcgan_jax.files import MAX_BYTES, append_json_lines, atomic_write, load_json, write_json


def test_json_is_written_atomically(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_lines_are_appended_after_a_cut_one(tmp_path):
    file = tmp_path / "a.jsonl"
    append_json_lines(file, [{"a": 1}, {"a": 2}])
    with file.open("a") as opened:
        opened.write('{"a": 3')  # a full disk
    append_json_lines(file, [{"a": 4}])
    append_json_lines(file, [{"a": 5}])
    assert file.read_text().split("\n") == ['{"a": 1}', '{"a": 2}', '{"a": 3', '{"a": 4}', '{"a": 5}', ""]


def test_load_json_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(OSError, match="not a regular file"):
        load_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text, says",
    [("[" * 100_000, "nested too deeply"), (" " * (MAX_BYTES + 1), "larger than 16,777,216 bytes"), ("{", "Expecting")],
)
def test_load_json_bad_content_raises_value_error(tmp_path, text, says):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        load_json(tmp_path / "a.json")


def test_atomic_write_failure_keeps_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyError), atomic_write(tmp_path / "a", own=".7") as partial:
        partial.write_text("new")
        assert partial.name == "a.7.partial"
        raise KeyError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_atomic_write_does_not_replace_pipes_and_devices(tmp_path):
    """As root, a replaced device is missing for all programs of the machine."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout, which is a regular file after a redirection
    for name in ("pipe", "to_pipe", "stdout"):
        before = os.lstat(tmp_path / name)
        with pytest.raises(OSError, match="Is not a regular file"), atomic_write(tmp_path / name) as partial:
            partial.write_text("new")
        assert os.lstat(tmp_path / name) == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["folder", "."])
def test_atomic_write_does_not_replace_a_folder(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IsADirectoryError), atomic_write(Path(name)):
        pytest.fail("refused only after the work")
