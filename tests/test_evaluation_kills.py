"""An evaluation that is killed again and again ends with the tables of one left alone."""

import csv
import io
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import pytest

import runs
from fakes import write_hr
from models import random_params
from srflow_jax import checkpoints
from srflow_jax.model.building import build_model
from srflow_jax.runs import write_config

TIMEOUT = 900  # seconds that no evaluation here may take
KILLS = 5
TIMES = ("time", "context_seconds", "sample_seconds")


def write_run(folder: pathlib.Path, factor: float = 0.3) -> None:
  """A run with a checkpoint, of one step of a flow; its parameters are random times a factor."""
  config = runs.get_config()
  params = random_params(build_model(config.model), dtype="float32")
  params = jax.tree.map(lambda leaf: jax.numpy.asarray(factor * leaf), params)
  folder.mkdir()
  write_config(folder, config)
  with checkpoints.writer(folder, keep=1) as writer:
    writer.save(0, {"params": params})


def start(workdir: pathlib.Path, output: pathlib.Path) -> subprocess.Popen:
  command = [sys.executable, "evaluate.py", f"--workdir={workdir}", f"--output_dir={output}"]
  command += [f"--hr_dir={workdir.parent / 'hr'}", "--num_samples=3", "--temperatures=0,0.5,0.9"]
  environment = runs.os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
  return subprocess.Popen(command, cwd=runs.ROOT, env=environment, **pipes)


def ended(process: subprocess.Popen, *statuses: int) -> int:
  """Waits for a process to end in one of these ways, and says in which."""
  try:
    _, errors = process.communicate(timeout=TIMEOUT)
  except subprocess.TimeoutExpired:
    process.kill()
    pytest.fail(f"did not end in {TIMEOUT} s")
  assert process.returncode in statuses, errors.decode(errors="replace")
  return process.returncode


def num_rows(output: pathlib.Path) -> int:
  path = output / "progress.jsonl"
  return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def without_times(output: pathlib.Path) -> dict[str, bytes]:
  """Every file that the evaluation wrote, but for the columns and fields of times."""
  files = json.loads((output / "files.json").read_text())
  contents = {name: (output / name).read_bytes() for name in files}
  del contents["report.html"]  # it repeats the table; its pictures are the plots and the sheets
  for name, separator in (("table.md", "|"), ("table.tex", "&")):
    lines = contents[name].decode().splitlines()
    # The time is the third column, whose width depends on it.
    cells = ([cell.strip(" -") for cell in line.split(separator)] for line in lines)
    columns = 3 if separator == "|" else 2
    kept = [separator.join(c[:columns] + c[columns + 1 :]) if len(c) > 5 else c for c in cells]
    contents[name] = repr(kept).encode()
  table = list(csv.DictReader(io.StringIO(contents["per_image.csv"].decode())))
  contents["per_image.csv"] = repr(
    [{key: text for key, text in line.items() if key not in TIMES} for line in table]
  ).encode()
  summary = json.loads(contents["summary.json"])
  del summary["command"]
  for system in summary["systems"].values():
    for values in (system["averages"], *system["images"].values()):
      for name in TIMES:
        del values[name]
  contents["summary.json"] = json.dumps(summary).encode()
  return contents


@pytest.mark.slow
def test_an_evaluation_killed_at_random_ends_with_the_whole_one_s_tables(tmp_path):
  workdir, whole, killed = (tmp_path / name for name in ("W", "whole", "killed"))
  write_run(workdir)
  write_hr(tmp_path / "hr")
  process = start(workdir, whole)
  while not num_rows(whole) and process.poll() is None:
    time.sleep(0.01)
  began = time.monotonic()
  ended(process, 0)
  rng = random.Random(0)
  window = 1.5 * (time.monotonic() - began) / KILLS
  for number in range(1, KILLS + 1):
    process, before = start(workdir, killed), num_rows(killed)
    since = "first new row" if rng.random() < 0.8 else "start"
    while since != "start" and num_rows(killed) <= before and process.poll() is None:
      time.sleep(0.002)
    seconds = rng.uniform(0, window if since != "start" else 5.0)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    state = "killed" if ended(process, -signal.SIGKILL, 0) else "it had ended"
    rows = num_rows(killed)
    print(f"{number}: {state} {seconds:.2f} s after its {since}; rows: {rows}", flush=True)
  ended(start(workdir, killed), 0)
  expected, found = without_times(whole), without_times(killed)
  assert found.keys() == expected.keys() and len(found) > 25
  for name, content in expected.items():
    assert found[name] == content, name


@pytest.mark.slow
def test_the_exit_status_tells_of_samples_that_are_not_finite(tmp_path):
  write_run(tmp_path / "W", factor=float("nan"))
  write_hr(tmp_path / "hr")
  ended(start(tmp_path / "W", tmp_path / "out"), 3)
  assert "values that are not finite" in (tmp_path / "out" / "table.md").read_text()
