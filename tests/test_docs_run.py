"""The commands of README and docs, typed as they stand, on small data and for two steps.

Each page has a folder of its own, with what its commands name: photographs, data sets, runs.
"""

import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from skimage import data

from srflow_jax.images import write_png
from srflow_jax.ops.resize import bicubic_resize
from test_docs import PAGES, ROOT, commands

pytestmark = pytest.mark.slow

# Commands with these words are not run here: where they are, or why they cannot be.
ELSEWHERE = {
  "...": "an ellipsis stands for the rest of the command",
  ".pth": "published weights cannot be had: tests/test_weights_files.py makes such files",
  "net.param": "tests/test_weights_files.py makes such files",
  "x4.param": "a file of a package of 83 MB; weights/README.md has its digest",
  "realesrgan": "tests/test_weights_real.py, where the package is installed",
  "ablate.py": "tests/test_studies.py",
  "pytest": "tests/test_studies_slurm.py",
  "benchmarks.accelerator": "tests/test_accelerator_command.py",
  "--baseline": "the baseline is a script in PyTorch; docs/speed.md has its figures",
  "weights/x4": "would write the repository's own weights anew; runs/da is exported here",
}

TWO_STEPS = {
  "num_train_steps": 2,
  "log_every_steps": 1,
  "eval_every_steps": 2,
  "checkpoint_every_steps": 2,
  "data.batch_size": 1,
  "data.hr_patch": 64,
  "data.val_patches": 1,
}
SMALL = {
  "model.encoder.width": 8,
  "model.encoder.growth": 4,
  "model.encoder.num_blocks": 1,
  "model.encoder.taps": "(0,)",
}


def photographs(folder: pathlib.Path, count: int = 1, size: int = 96) -> list[pathlib.Path]:
  pictures = data.astronaut(), data.coffee(), data.chelsea()
  for index, picture in enumerate(pictures[:count]):
    write_png(folder / f"{index}.png", picture[:size, :size])
  return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> pathlib.Path:
  """A folder with all that the pages' commands name."""
  folder = tmp_path_factory.mktemp("things")
  hr = photographs(folder / "HR")
  for name in ("PHOTOS", "OTHERS"):
    photographs(folder / name, 3, 128)
  for name in ("DIV2K_CROPS", "DIV2K_valid_HR", *(f"BENCHMARKS/{x}/HR" for x in SETS)):
    shutil.copytree(folder / "HR", folder / name)
  lr = bicubic_resize(data.astronaut()[:96, :96], 1 / 4)
  for name in ("LR", "SMALL_PHOTOS", "DIV2K_valid_LR_bicubic/X4"):
    write_png(folder / name / hr[0].name, lr)
  for name in SETS:
    write_png(folder / "BENCHMARKS" / name / "LR_x4" / f"{name}.png", lr)
  write_png(folder / "PHOTO.jpg", lr)
  for name, size in (("HR", 256), ("LR_bicubic_X4", 64)):
    for part in ("train", "valid"):
      with zipfile.ZipFile(folder / f"DIV2K_{part}_{name}.zip", "w") as archive:
        for number, path in enumerate(sorted((folder / "PHOTOS").iterdir())):
          picture = folder / "member.png"
          original = data.astronaut() if number == 0 else data.coffee()
          write_png(picture, _reduced(original[:256, :256], size))
          archive.write(picture, f"{path.stem}{'x4' * (size == 64)}.png")
  with tarfile.open(folder / "Flickr2K.tar", "w") as archive:
    archive.add(folder / "PHOTOS" / "2.png", "000002.png")
  return folder


SETS = ("div2k", "set5", "set14")


def _reduced(picture, size: int):
  return picture if len(picture) == size else bicubic_resize(picture, size / len(picture))


def typed(command: list[str], folder: pathlib.Path) -> None:
  """Runs a command in a folder where the repository's programs lie."""
  words = []
  for word in command[1:]:  # as a shell would
    words += sorted(glob.glob(word, root_dir=folder)) if "*" in word else [word]
  environment = os.environ | {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, *words],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    timeout=900,
  )
  # What the search of a run of two steps ends with, when all is done.
  is_bad = "no temperature is better than bicubic" in done.stderr and "search" in " ".join(command)
  assert done.returncode == 0 or is_bad, (command, done.stdout[-2000:], done.stderr[-2000:])


def value_of(flag: str, command: list[str]) -> list[str]:
  return [word.partition("=")[2] for word in command if word.startswith(f"{flag}=")]


def shortened(command: list[str]) -> list[str]:
  """A command for two steps and few samples, of a small model where it may be of any size."""
  command = [word for word in command if not word.startswith("[")]  # what may be left out
  if command[1] == "train.py":
    fields = dict(TWO_STEPS)
    (config,) = value_of("--config", command)
    if config.split(":")[0].removesuffix(".py") in (
      "configs/x4_da",
      "configs/x4_da_learned_prior",
      "configs/rrdb_x4",
      "softplus_config",
    ):
      fields |= SMALL
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    if not any("train_dir" in word for word in command) and "demo" not in config:
      command.append("--config.data.train_dir=PHOTOS")
  elif command[1] == "evaluate.py":
    command = [word for word in command if not word.startswith("--num_samples")]
    command.append(f"--num_samples={3 if '--estimates' in command else 2}")
    if not any("_dir" in word and "output" not in word for word in command):
      command.append("--hr_dir=HR")
  elif command[1] == "-m" and command[2] == "benchmarks.speed":
    command += [f"--config.{name}={value}" for name, value in SMALL.items()]
    command += ["--lr_sizes=16", "--rounds=1", "--batch=1", "--patch=64"]
  return command


RUN = [
  page
  for page in PAGES
  if any(not any(word in " ".join(command) for word in ELSEWHERE) for command in commands(page))
]


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_do_what_they_say(page, things, tmp_path):
  shutil.copytree(things, tmp_path, dirs_exist_ok=True)
  for path in ROOT.iterdir():
    if path.name in ("srflow_jax", "configs", "benchmarks", "weights") or path.suffix == ".py":
      (tmp_path / path.name).symlink_to(path)
  for name, source in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page.read_text(), re.DOTALL):
    (tmp_path / name).write_text(source)
  small = ["python", "train.py", "--config=configs/x4_da.py", "--config.data.train_dir=PHOTOS"]
  for command in commands(page):
    text = " ".join(command)
    if any(word in text for word in ELSEWHERE):
      continue
    is_made = command[1] in ("train.py", "import_weights.py")
    for workdir in value_of("--workdir", command) * is_made:
      shutil.rmtree(tmp_path / workdir, ignore_errors=True)  # another line of the page made it
    if command[1] == "train.py":
      if (found := value_of("--config.data.train_dir", command)) and not (
        tmp_path / found[0]
      ).exists():
        shutil.copytree(tmp_path / "PHOTOS", tmp_path / found[0])
    for workdir in value_of("--workdir", command):
      if workdir.startswith("runs/") and not is_made and not (tmp_path / workdir).exists():
        typed(shortened([*small, f"--workdir={workdir}"]), tmp_path)
    typed(shortened(command), tmp_path)
