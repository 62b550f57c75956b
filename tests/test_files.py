"""Files are written whole or not at all, and only regular ones are read."""

import os
import pathlib
import socket

import pytest

from srflow_jax import files
from srflow_jax.errors import InputError


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_file_is_whole_under_its_name_and_nothing_else_is_left(tmp_path):
  path = tmp_path / "a.json"
  with files.whole_file(path) as file:
    file.write(b"new")
    assert not path.exists()
  assert path.read_bytes() == b"new" and names(tmp_path) == ["a.json"]
  files.write_json(path, {"größe": [1, 2.5, None]})
  assert files.read_json(path) == {"größe": [1, 2.5, None]}
  umask = os.umask(0)
  os.umask(umask)
  assert path.stat().st_mode & 0o777 == 0o666 & ~umask
  with files.whole_file(tmp_path / "x" / "y" / "b", make_folder=True) as file:
    file.write(b"b")
  assert names(tmp_path / "x" / "y") == ["b"]


def test_a_failure_leaves_the_old_file(tmp_path):
  path = tmp_path / "a"
  files.write_whole(path, "old")
  for error in (KeyError, KeyboardInterrupt):
    with pytest.raises(error):
      with files.whole_file(path) as file:
        file.write(b"half")
        raise error
  with pytest.raises(ValueError, match="JSON"):
    files.write_json(path, float("nan"))
  assert path.read_text() == "old" and names(tmp_path) == ["a"]


def test_links_are_replaced_and_never_followed(tmp_path):
  (tmp_path / "victim").write_text("precious")
  (tmp_path / "a").symlink_to("victim")
  files.write_whole(tmp_path / "a", "new")
  assert (tmp_path / "victim").read_text() == "precious"
  assert (tmp_path / "a").read_text() == "new" and not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("name", ["", "none/a", "file/a", "folder"])
def test_what_cannot_be_written_is_one_line(tmp_path, name):
  (tmp_path / "file").write_text("x")
  (tmp_path / "folder" / "full").mkdir(parents=True)
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(InputError, match="cannot be written: ") as caught:
    files.write_whole(tmp_path / name, "x")
  assert "\n" not in str(caught.value)
  assert sorted(tmp_path.rglob("*")) == before


def fifo(path):
  os.mkfifo(path)


def bound_socket(path):
  # A socket's path is short by its protocol.
  folder = os.getcwd()
  os.chdir(path.parent)
  try:
    socket.socket(socket.AF_UNIX).bind(path.name)
  finally:
    os.chdir(folder)


@pytest.mark.parametrize(
  "make, line",
  [
    (lambda path: None, "No such file or directory"),
    (pathlib.Path.mkdir, "Is a directory"),
    (fifo, "not a regular file"),
    (bound_socket, "No such device or address"),
    (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
  ],
)
def test_only_regular_files_are_read(tmp_path, make, line):
  make(tmp_path / "x")
  with pytest.raises(InputError) as caught:
    files.read_json(tmp_path / "x")
  assert str(caught.value) == f"{tmp_path / 'x'}: cannot be read: {line}"


@pytest.mark.parametrize(
  "content", [b"", b"{", b"\xff", b"\xff\xfe\x00", b"[" * 10**5, b'{"a":1}x', b'"\\ud800"']
)
def test_what_is_no_json_is_one_line(tmp_path, content):
  (tmp_path / "x").write_bytes(content)
  with pytest.raises(InputError, match="x: damaged, it is no JSON") as caught:
    files.read_json(tmp_path / "x")
  assert "\n" not in str(caught.value)
