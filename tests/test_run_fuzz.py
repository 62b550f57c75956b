"""Random edits of every JSON file of a run and of an evaluation: one line or a right result.

Seeded, so that a failure comes again. All is tried in this process, by those who read the files.
"""

import copy
import json

import jax.numpy as jnp
import numpy as np
import pytest

import runs
from srflow_jax import checkpoints
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.evaluation import folder as evaluation_folder
from srflow_jax.evaluation.evaluator import Scores
from srflow_jax.evaluation.progress import Progress
from srflow_jax.evaluation.report import Row, csv_table
from srflow_jax.model.building import build_model
from srflow_jax.runs import (
  ChosenTemperature,
  Saved,
  check_config,
  check_data,
  chosen_temperature,
  last_saved,
  load_config,
  note_saved,
  write_config,
  write_data,
  write_temperature,
)
from time_limits import time_limit

EDITS = 300  # of each file
SECONDS = 20  # that reading one may take
DATA = {split: {"images": 3, "digest": "ab"} for split in ("train", "validation")}
VALUES = (
  None,
  True,
  -1,
  0,
  1,
  10**30,
  0.5,
  float("nan"),
  float("inf"),
  "",
  "x",
  "é",
  [],
  {},
  [[1]],
  "a\0b",
  "\ud800",
  1e400,
)
DEEP = b"[" * 100_000


def edited(content: bytes, rng: np.random.Generator) -> bytes:
  """A value replaced, doubled, renamed or left out; or bytes of the file changed or cut off.

  Or something that nests deeper than Python does.
  """
  if rng.random() < 0.02:
    return DEEP if b"\n" not in content.strip() else content + DEEP
  if rng.random() < 0.25 or not content.strip():
    at = int(rng.integers(len(content) + 1))
    return content[:at] + (bytes(rng.integers(0, 256, 3, np.uint8)) if rng.random() < 0.5 else b"")
  lines = content.split(b"\n")
  numbers = [number for number, line in enumerate(lines) if line]
  is_one = json_or_none(content) is not None
  number = int(rng.choice(numbers))
  value = json_or_none(content if is_one else lines[number])
  if value is None:  # a line that is no JSON, as the head of `progress.jsonl`
    lines[number] = lines[number][::-1]
    return b"\n".join(lines)
  text = json.dumps(changed(value, rng)).encode()
  return text if is_one else b"\n".join([*lines[:number], text, *lines[number + 1 :]])


def json_or_none(content: bytes):
  try:
    return json.loads(content)
  except ValueError:
    return None


def changed(value, rng):
  """One place of a JSON value, changed."""
  value = copy.deepcopy(value)
  places = [None]  # (container, key); None: the whole

  def walk(part):
    keys = part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
    for key in keys:
      places.append((part, key))
      walk(part[key])

  walk(value)
  place = places[int(rng.integers(len(places)))]
  new = VALUES[int(rng.integers(len(VALUES)))]
  if place is None:
    return new
  container, key = place
  match int(rng.integers(4)):
    case 0 if isinstance(container, dict):
      container[f"{key}x"] = container.pop(key)
    case 1:
      del container[key]
    case 2 if isinstance(container, list):
      container.append(container[key])
    case _:
      container[key] = new
  return value


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run with all its JSON files, and an evaluation that was interrupted."""
  folder = tmp_path_factory.mktemp("run") / "W"
  folder.mkdir()
  write_config(folder, runs.get_config())
  write_data(folder, DATA)
  note_saved(folder, Saved(3, "a word"))
  write_temperature(folder, ChosenTemperature((0.8, 0.9), 3, 4, 5))
  with checkpoints.writer(folder, keep=1) as writer:
    writer.save(3, {"params": {"a": jnp.ones(2, jnp.float32)}})
  output = folder / "evaluation"
  output.mkdir()
  evaluation_folder.begin(output, [output.relative_to(output) / "samples" / "a.png"])
  progress = Progress(output, "these settings")
  scores = Scores(1.0, 2.0, lr_psnr=(3.0,), psnr=(4.0,), not_finite=(0,), outside=(0,))
  for name in ("a", "b"):
    progress.add(Row(name, "m", (8, 8), scores))
  return folder


def read_configuration(folder):
  config = load_config(folder)
  build_model(config.model, config.compute)
  check_config(folder, read_config(runs.get_config()), allow_change=True)


def read_contents(folder):
  (step,) = checkpoints.saved_steps(folder)
  checkpoints.load_trees(folder, step, {"params": {"a": np.ones(2, np.float32)}})


def read_progress(folder):
  progress = Progress(folder / "evaluation", "these settings")
  rows = [row for name in ("a", "b") if (row := progress.get(name, "m"))]
  csv_table(rows)  # what is taken over can be reported
  return len(rows)


# The checkpoint library's own files in a checkpoint.
OF_ORBAX = (
  "_CHECKPOINT_METADATA",
  "params/_METADATA",
  "params/_sharding",
  "params/array_metadatas/process_0",
)

READERS = {
  "config.json": read_configuration,
  "data.json": lambda folder: check_data(folder, DATA, allow_change=True),
  "progress.json": last_saved,
  "checkpoints/3/contents/contents.json": read_contents,
  "temperature.json": chosen_temperature,
  **{f"checkpoints/3/{name}": read_contents for name in OF_ORBAX},
  "evaluation/files.json": lambda folder: evaluation_folder.begin(folder / "evaluation", []),
  "evaluation/progress.jsonl": read_progress,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_edited_files_are_one_line_or_right(name, workdir, tmp_path):
  path = workdir / name
  original, rng = path.read_bytes(), np.random.default_rng(len(name))
  others = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file() and p != path}
  if "jsonl" in name:
    assert read_progress(workdir) == 2  # none is dropped that is whole
  counts = {"clear": 0, "right": 0}
  for number in range(EDITS):
    content = edited(original, rng)
    path.write_bytes(content)
    try:
      with time_limit(SECONDS):
        READERS[name](workdir)
      counts["right"] += 1
    except InputError as error:
      assert "\n" not in str(error), (number, content)
      counts["clear"] += 1
    except Exception as error:
      raise AssertionError(f"edit {number}: {content[:2000]!r}") from error
    left = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file() and p != path}
    assert left == others, (number, content)
  path.write_bytes(original)
  print(name, counts)
  is_spare = name in (f"checkpoints/3/{own}" for own in OF_ORBAX)  # much in these is not read
  assert counts["clear"] > EDITS / 10 or is_spare or name == "evaluation/progress.jsonl"
