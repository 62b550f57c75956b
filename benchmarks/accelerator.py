"""Everything that is worth knowing of an accelerator that is there for some minutes only.

python -m benchmarks.accelerator --out=DIR --minutes=8 [--items=device,speed,...]
    [--baseline=FILE.py [--python=INTERPRETER_WITH_PYTORCH]]
    [--train=CONFIG [--train.FIELD=VALUE ...] --data=FOLDER [--scratch=FOLDER]]

Items, in this order, each a process of its own with its share of the minutes:

  device    versions, devices, the rate of a large matrix product
  accuracy  the published model's values and training steps, in three precisions: the tests that
            are marked `accelerator`
  speed     training steps and samples of SRFlow-DA x4, in bfloat16 and in float32
  baseline  the same in PyTorch, eager and compiled
  memory    rematerialisation, scanned against unrolled layers, the largest batch, an 8K image
  profile   kernels of SRFlow-DA's programs, by the time that they take
  variants  as `speed`, of DA-S and SRFlow
  pipeline  batches a second that the input pipeline delivers from `--data`
  train     trains `--train` on `--data` for all of the time that is left, as many steps as fit;
            every minute its weights go into DIR as float16; ends with its evaluation

What an item finds is in DIR/ITEM.jsonl at once, in DIR/accelerator.md and accelerator.json after
it, and what it printed in DIR/ITEM.log. An item that fails or runs out of time is told of in the
table, and the next one begins. `--small` does all with small models, to see on any machine that it
works to the end. A training run that is in `--scratch` is gone on with.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from benchmarks.accelerator_report import table
from srflow_jax import cli
from srflow_jax.errors import InputError

# Each item's part of the time, as seconds of a loan of eight minutes; training gets the rest.
SHARES = {
  "device": 20,
  "accuracy": 75,
  "speed": 110,
  "baseline": 90,
  "memory": 60,
  "profile": 25,
  "variants": 40,
  "pipeline": 15,
  "train": 70,
}

_OUT = flags.DEFINE_string("out", None, "Folder to write to.", required=True)
_MINUTES = flags.DEFINE_float("minutes", 8, "All that it may take.", lower_bound=0.1)
_ITEMS = flags.DEFINE_list("items", [], "Which items; default: all that the flags allow.")
_SMALL = flags.DEFINE_bool("small", False, "Small models, to see that it works.")
_BASELINE = flags.DEFINE_string("baseline", "", "The PyTorch baseline's script; '': none.")
_PYTHON = flags.DEFINE_string("python", sys.executable, "What runs it.")
_TRAIN = config_flags.DEFINE_config_file("train", None, "Configuration to train; none: no item.")
_DATA = flags.DEFINE_string("data", "", "Its training set; '': the photographs of scikit-image.")
_TRAIN_STEPS = flags.DEFINE_integer("train_steps", 0, "In all; 0: as many as the time allows.")
_SCRATCH = flags.DEFINE_string("scratch", "", "Where the run lies; default: DIR/run.")
_ITEM = flags.DEFINE_string("item", "", "Internal: the item that this process does.")
_SECONDS = flags.DEFINE_float("seconds", 0, "Internal: how long it may take.")

_GRACE = 10  # seconds between the request to end and the end


def main(argv: list[str]) -> None:
  """Runs the items, one after the other, or in a process of its own one of them."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  if _ITEM.value:
    _do(_ITEM.value)
    return
  items, out = _chosen(), pathlib.Path(_OUT.value)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"--out={out}: {error.strerror}") from None
  end = time.monotonic() + 60 * _MINUTES.value
  done = {}
  for place, item in enumerate(items):
    shares = [SHARES[name] for name in items[place:]]
    seconds = max(0.0, end - time.monotonic()) * shares[0] / sum(shares)
    print(f"{item}: at most {seconds:.0f} s", flush=True)
    done[item] = _run(item, out, seconds)
    _write(out, done)
    print(f"{item}: {done[item]['status']}, {done[item]['seconds']:.0f} s", flush=True)
  print((out / "accelerator.md").read_text())


def _chosen() -> list[str]:
  if unknown := sorted(set(_ITEMS.value) - set(SHARES)):
    raise InputError(f"--items: unknown: {', '.join(unknown)}; one of {', '.join(SHARES)}")
  if _BASELINE.value and not os.path.isfile(_BASELINE.value):
    raise InputError(f"--baseline={_BASELINE.value}: no such file")
  if _DATA.value and not os.path.exists(_DATA.value):
    raise InputError(f"--data={_DATA.value}: no such folder")
  lacking = {"baseline": not _BASELINE.value, "train": _TRAIN.value is None}
  for item in _ITEMS.value:
    if lacking.get(item):
      raise InputError(f"--items={item}: it needs --{item}")
  return [
    item for item in SHARES if not lacking.get(item) and (item in _ITEMS.value or not _ITEMS.value)
  ]


def _run(item: str, out: pathlib.Path, seconds: float) -> dict[str, Any]:
  """Runs an item in a process of its own, which is ended after so many seconds."""
  (out / f"{item}.jsonl").write_text("")
  command = [sys.executable, "-m", "benchmarks.accelerator", *sys.argv[1:]]
  command += [f"--item={item}", f"--seconds={seconds}"]
  begin, root = time.monotonic(), pathlib.Path(__file__).resolve().parents[1]
  environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
  with (out / f"{item}.log").open("wb") as log:
    process = subprocess.Popen(
      command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    try:
      status = "done" if process.wait(seconds) == 0 else "failed"
    except subprocess.TimeoutExpired:
      status = "out of time"
      os.killpg(process.pid, signal.SIGTERM)
      try:
        process.wait(_GRACE)
      except subprocess.TimeoutExpired:
        pass
    finally:
      try:  # also what it had started
        os.killpg(process.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
      process.wait()
  error = None
  if status == "failed":
    lines = (out / f"{item}.log").read_text(errors="replace").split("\n")
    error = next((line for line in reversed(lines) if line.strip()), "no output")[:300]
  rows = [json.loads(line) for line in (out / f"{item}.jsonl").read_text().splitlines()]
  return {"status": status, "error": error, "seconds": time.monotonic() - begin, "rows": rows}


def _write(out: pathlib.Path, done: dict[str, Any]) -> None:
  """Writes what is known so far, whole or not at all."""
  about = {
    "command": " ".join(["python -m benchmarks.accelerator", *sys.argv[1:]]),
    "date": time.strftime("%Y-%m-%d %H:%M"),
    "items": done,
  }
  texts = {"accelerator.json": json.dumps(about, indent=2) + "\n", "accelerator.md": table(about)}
  for name, text in texts.items():
    (out / f"{name}.partial").write_text(text)
    os.replace(out / f"{name}.partial", out / name)


def _do(item: str) -> None:
  """Does one item here."""
  # Not above: they load JAX.
  from benchmarks import accelerator_items, accelerator_profile, accelerator_training

  file = pathlib.Path(_OUT.value, f"{item}.jsonl")

  def emit(**row: Any) -> None:
    with file.open("a") as rows:
      rows.write(json.dumps(row) + "\n")
    print(row, flush=True)

  sizes = accelerator_items.SMALL if _SMALL.value else accelerator_items.FULL
  match item:
    case "device":
      accelerator_items.device(emit)
    case "accuracy":
      accelerator_items.accuracy(emit, sizes)
    case "profile":
      accelerator_profile.profile(emit, sizes)
    case "speed" | "variants":
      accelerator_items.speed(emit, sizes, sizes.first if item == "speed" else sizes.others)
    case "memory":
      accelerator_items.memory(emit, sizes)
    case "baseline":
      command = [_PYTHON.value, _BASELINE.value]
      accelerator_items.baseline(emit, sizes, command, _SECONDS.value)
    case "pipeline":
      accelerator_training.pipeline(emit, sizes, _DATA.value)
    case "train":
      accelerator_training.train_and_evaluate(
        emit,
        _TRAIN.value,
        _DATA.value,
        pathlib.Path(_OUT.value),
        pathlib.Path(_SCRATCH.value or _OUT.value, "run"),
        _TRAIN_STEPS.value,
        _SECONDS.value,
      )


if __name__ == "__main__":
  cli.run(main)
