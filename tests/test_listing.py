"""Images of kinds that are not read are named, in folders as in archives."""

import sys
import warnings
import zipfile

import pytest
from absl import flags

from srflow_jax import cli
from srflow_jax.data.archives import hr_images
from srflow_jax.errors import InputError, InputWarning
from srflow_jax.listing import list_images


def of_folder(tmp_path, names):
  for name in names:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  return tmp_path, lambda: list_images(tmp_path)


def of_archive(tmp_path, names):
  path = tmp_path / "a.zip"
  with zipfile.ZipFile(path, "w") as archive:
    for name in names:
      archive.writestr(name, b"")
  return path, lambda: hr_images([str(path)])


@pytest.mark.parametrize("make", [of_folder, of_archive])
@pytest.mark.parametrize("beside", [["b.HEIC"], ["c/d.jp2", "e.avif"], []])
def test_images_that_are_not_read_are_named(tmp_path, make, beside):
  where, found = make(tmp_path, ["a.png", "notes.txt", ".hidden.heic", *beside])
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert len(found()) == 1
  said = [str(w.message) for w in caught if w.category is InputWarning]
  assert len(said) == bool(beside)
  if beside:
    assert (
      f"{where}: passed over {len(beside)} files of kinds that are not read, such as" in said[0]
    )
    assert said[0].endswith(beside[0])


@pytest.mark.parametrize("make", [of_folder, of_archive])
def test_a_folder_of_nothing_else_is_refused_by_name(tmp_path, make):
  _, found = make(tmp_path, ["b.heic"])
  with pytest.raises(InputError, match=r"no image in it .*; passed over 1 files .*b\.heic\)"):
    found()


def test_a_command_says_it_once_in_a_line(tmp_path, monkeypatch, capsys):
  _, found = of_folder(tmp_path, ["a.png", "b.heic"])
  monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
  monkeypatch.setattr(sys, "argv", ["command.py"])
  with warnings.catch_warnings():
    warnings.simplefilter("default", InputWarning)
    cli.run(lambda argv: (found(), found()), flags.FlagValues())
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"warning: {tmp_path}: passed over 1 files")
