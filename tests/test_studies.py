"""A real study: killed in its middle and finished by two processes at once, it is the whole one."""

import dataclasses
import signal

import pytest

import runs
import studies_tiny
from srflow_jax.studies.results import Row, read_rows

PROGRAM = ("ablate.py", f"--study={studies_tiny.__file__}")
TIMES = ("time", "context_seconds", "sample_seconds", "step_seconds", "train_seconds")


def numbers(folder) -> list[Row]:
  """All rows but those of times; the repository may be changed meanwhile."""
  rows = [dataclasses.replace(row, commit="") for row in read_rows(folder / "runs.csv")]
  return [row for row in rows if row.metric.rpartition("/")[2] not in TIMES]


@pytest.mark.slow
def test_a_study_killed_and_finished_by_two_processes_is_the_whole_one(tmp_path, monkeypatch):
  monkeypatch.setattr(runs, "TIMEOUT", 1800)  # a study is four runs and their evaluations
  photographs = studies_tiny.write_photographs(tmp_path / "photographs")
  flags = [f"--{name}={photographs}" for name in ("train_dir", "val_dir", "hr_dir")]
  whole, workdir = tmp_path / "whole", tmp_path / "W"
  runs.ended(runs.Process(whole, *flags, program=PROGRAM))
  expected = numbers(whole)
  assert {row.variant for row in expected} == {"base", "two", "bicubic"}
  assert {row.seed for row in expected} == {3, 5}
  assert {"nll", "psnr", "lpips_mean", "skipped", "validation/nll"} <= {r.metric for r in expected}

  process = runs.Process(workdir, *flags, program=PROGRAM)
  second = workdir / "runs" / "two-seed3"
  runs.wait_for(lambda: runs.saved_steps(second), process)  # one run is done, one is at its middle
  process.signal(signal.SIGKILL)
  assert process.end() == -signal.SIGKILL, process.output
  assert not (workdir / "runs" / "base-seed5").exists()
  both = [runs.Process(workdir, *flags, program=PROGRAM, name=f"log{i}") for i in range(2)]
  runs.ended(*both)
  assert numbers(workdir) == expected
  assert sum("two-seed3: taken over from process" in p.output for p in both) == 1
  for name in ("base-seed5", "two-seed5"):
    assert sum(f"{name}: train done" in process.output for process in both) == 1
  for name in ("table.md", "table.tex", "report.html", "sheets/photo0.png"):
    assert (workdir / name).stat().st_size > 0
  runs.ended(runs.Process(workdir, *flags, "--dry_run", program=PROGRAM, name="dry"))
