"""A study's runs: divided, continued, recorded when they fail. Stages are stand-ins of no cost."""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import threading
import time
from unittest.mock import Mock

import jax
import numpy as np
import pytest
import rich.console

import ablate
import studies_tiny
from srflow_jax import cli
from srflow_jax.errors import InputError, Interrupted
from srflow_jax.studies import claims, command, costs, degraded, record, runner, slurm, stages
from srflow_jax.studies.progress import Display, status
from srflow_jax.studies.results import FAILED, Row, collect, read_rows, write_rows
from srflow_jax.studies.study import Budget, read_study
from srflow_jax.training.events import Scalar

QUICK = runner.Options(timing=claims.Timing(heartbeat=0.05, dead_after=1.0))
STAGES = ("train", "evaluation")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
  return str(studies_tiny.write_photographs(tmp_path_factory.mktemp("studies") / "photographs"))


@pytest.fixture(scope="module")
def study(photographs):
  dirs = {name: photographs for name in ("hr_dir", "train_dir", "val_dir")}
  return read_study(studies_tiny.get_study(), **dirs)


@pytest.fixture
def done(monkeypatch):
  """What stages were done, in order; each gives a row. `done.before(job, stage)` comes first."""

  class Done(list):
    before = staticmethod(lambda job, stage: None)

  found = Done()
  monkeypatch.setattr(stages, "commit", lambda: "abc")

  def stage_of(name):
    def stage(job):
      found.before(job, name)
      found.append((job.run.name, name))
      yield job.row(f"of_{name}", job.run.seed + len(job.run.variant))

    return stage

  monkeypatch.setattr(stages.Job, "stages", lambda job: {name: stage_of(name) for name in STAGES})
  return found


def run(study, folder, options=QUICK):
  """Runs a study; what it said, and the rows."""
  said = []
  jobs = runner.jobs_of(record.begin(study, folder), folder)
  display = Display(jobs, rich.console.Console(file=open(os.devnull, "w"), width=200))
  display.say = said.append
  return said, runner.run_jobs(jobs, folder, options, display)


def names(study, folder):
  return [job.run.name for job in runner.jobs_of(record.begin(study, folder), folder)]


def test_all_runs_are_done_once_seed_by_seed(study, tmp_path, done):
  _, rows = run(study, tmp_path)
  expected = [
    (f"{name}-seed{seed}", stage) for seed in (3, 5) for name in ("base", "two") for stage in STAGES
  ]
  assert done == expected
  assert [row.value for row in rows if row.metric == "of_train"] == [7, 6, 9, 8]
  assert read_rows(tmp_path / "runs.csv") == rows
  run(study, tmp_path)
  assert done == expected  # nothing again


def test_results_are_there_after_each_run(study, tmp_path, done):
  seen = []
  table = tmp_path / "runs.csv"
  done.before = lambda job, stage: seen.append(len(read_rows(table)) if table.exists() else 0)
  run(study, tmp_path)
  assert seen == [0, 0, 2, 2, 4, 4, 6, 6]


def test_rows_of_runs_that_are_elsewhere_stay(study, tmp_path, done):
  _, rows = run(study, tmp_path)
  shutil.rmtree(tmp_path / "runs" / "two-seed3")
  jobs = runner.jobs_of(record.begin(study, tmp_path), tmp_path)
  found = collect(runner.tables(jobs), tmp_path / "runs.csv", kept=True)
  assert sorted(found, key=repr) == sorted(rows, key=repr)


def test_a_run_that_was_moved_has_all_kinds_of_its_devices(study, tmp_path, done, monkeypatch):
  def move(job, stage):
    if stage == "train":
      raise Interrupted("stopped")

  monkeypatch.setattr(costs, "device_kind", lambda: "1 x A100")
  done.before = move
  with pytest.raises(Interrupted):
    run(study, tmp_path)
  monkeypatch.setattr(costs, "device_kind", lambda: "1 x H100")
  done.before = lambda job, stage: None
  _, rows = run(study, tmp_path)
  assert rows[0].device == "1 x A100 + 1 x H100" and rows[-1].device == "1 x H100"


def test_training_takes_the_time_of_both_its_phases(study):
  """Ten steps of a second with a frozen encoder, then ten of three; one pause, one compilation."""
  config = record.plan(study).runs[0].config
  optim = dataclasses.replace(config.optim, encoder_init="x", encoder_frozen_fraction=0.5)
  config = dataclasses.replace(config, optim=optim, num_train_steps=20)
  taken = {2: 9.0, 4: 2.0, 6: 2.0, 8: 100.0, 10: 2.0, 12: 30.0, 14: 6.0, 16: 6.0, 18: 6.0, 20: 6.0}
  times = np.cumsum(list(taken.values()))
  logged = {step: Scalar(0.0, time) for step, time in zip(taken, times.tolist(), strict=True)}
  assert stages._seconds(logged, config) == 10 * 1.0 + 10 * 3.0
  assert stages._seconds(dict(list(logged.items())[:5]), config) == 0  # nothing of the second


@pytest.mark.slow
def test_operations_are_counted_once(photographs, tmp_path, monkeypatch):
  """A later version may count them otherwise: a study that has begun keeps its steps."""
  dirs = {name: photographs for name in ("hr_dir", "train_dir", "val_dir")}
  study = read_study(studies_tiny.get_study() | {"budget": {"flops": 1e10}}, **dirs)
  before = record.begin(study, tmp_path).configs
  steps = costs.steps_of
  monkeypatch.setattr(costs, "steps_of", lambda *arguments: steps(*arguments) + 1)
  assert record.begin(study, tmp_path).configs == before
  assert record.begin(study, tmp_path / "new").configs != before


def test_degraded_images_are_written_once(photographs, tmp_path):
  arguments = (tmp_path, "noise10", 4, photographs, "", 2)
  folders = degraded.write_degraded(*arguments)
  files = [path for folder in folders for path in sorted(folder.glob("*.png"))]
  times = [path.stat().st_mtime_ns for path in files]
  degraded.write_degraded(*arguments)
  assert len(files) == 4 and [path.stat().st_mtime_ns for path in files] == times


def test_an_interrupted_study_goes_on_at_the_stage_where_it_was(study, tmp_path, done):
  def stop(job, stage):
    if (job.run.name, stage) == ("two-seed3", "evaluation"):
      raise Interrupted("stopped")

  done.before = stop
  with pytest.raises(Interrupted):
    run(study, tmp_path)
  assert claims.holder(tmp_path / "runs" / "two-seed3") is None  # it has let go
  done.before = lambda job, stage: None
  _, rows = run(study, tmp_path)
  assert done.count(("two-seed3", "train")) == 1 and len(done) == 8
  _, whole = run(study, tmp_path / "whole")
  assert rows == whole


@pytest.mark.parametrize(
  ("error", "reason"),
  [
    (InputError("training diverges"), "train: training diverges"),
    (MemoryError(), "train: MemoryError: MemoryError"),
    (RuntimeError("two\nlines"), "train: RuntimeError: two lines"),
    (
      jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x"),
      "train: JaxRuntimeError: RESOURCE_EXHAUSTED: x",
    ),
  ],
)
def test_a_run_that_fails_is_recorded_and_the_others_go_on(study, tmp_path, done, error, reason):
  def fail(job, stage):
    if job.run.name == "base-seed3":
      raise error

  done.before = fail
  said, rows = run(study, tmp_path)
  assert len(done) == 6
  (failed,) = [row for row in rows if row.metric == FAILED]
  assert (failed.variant, failed.seed, failed.value) == ("base", 3, reason)
  assert any("base-seed3: failed in " in line for line in said)
  run(study, tmp_path)
  assert len(done) == 6  # it is not tried again, unless that is asked for
  done.before = lambda job, stage: None
  _, rows = run(study, tmp_path, runner.Options(timing=QUICK.timing, retry_failed=True))
  assert len(done) == 8 and not [row for row in rows if row.metric == FAILED]


def test_a_device_that_fails_ends_its_process_and_no_run(study, tmp_path, done):
  """Unless processes end so at one place again and again: then it is the run's own fault."""

  def fail(job, stage):
    if job.run.name == "base-seed3":
      raise jax.errors.JaxRuntimeError("INTERNAL: device lost")

  done.before = fail
  for _ in range(3):
    with pytest.raises(InputError, match=r"base-seed3: train: the device failed, .*device lost"):
      run(study, tmp_path)
    assert not done
  _, rows = run(study, tmp_path)
  assert (
    len(done) == 6 and "3 processes in a row" in next(r for r in rows if r.metric == FAILED).value
  )


def test_a_submission_retries_what_failed_also_where_steps_were_timed(
  study, tmp_path, done, monkeypatch
):
  timed = dataclasses.replace(study, budget=Budget(seconds=1.0, device="any"))
  monkeypatch.setattr(costs, "steps_of", lambda budget, config: 6)
  (job, *_) = runner.jobs_of(record.begin(timed, tmp_path), tmp_path)
  job.table(FAILED).parent.mkdir(parents=True)
  write_rows(job.table(FAILED), [job.row(FAILED, "it diverged")])
  monkeypatch.setattr(costs, "steps_of", Mock(side_effect=AssertionError("timed again")))
  monkeypatch.setattr(slurm, "submit", lambda *arguments: ["7"])
  command.submit(timed, tmp_path, ["true"], slurm.Resources(), retry_failed=True)
  assert runner.failure(job) == ""


def test_two_processes_divide_the_runs(study, tmp_path, done):
  """As two threads: claims of one process exclude each other as well."""
  jobs = runner.jobs_of(record.begin(study, tmp_path), tmp_path)
  done.before = lambda job, stage: time.sleep(0.05)
  # Signals' handlers belong to the main thread.
  stoppable = pytest.MonkeyPatch()
  stoppable.setattr(runner, "_stoppable", lambda job, claim: contextlib.nullcontext())
  errors = []

  def work():
    display = Display(jobs, rich.console.Console(file=open(os.devnull, "w")))
    try:
      runner.run_jobs(jobs, tmp_path, QUICK, display)
    except BaseException as error:
      errors.append(error)

  threads = [threading.Thread(target=work) for _ in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  stoppable.undo()
  assert not errors and sorted(done) == sorted(
    (n, s) for n in names(study, tmp_path) for s in STAGES
  )


def test_a_live_machines_run_is_left_to_it_and_a_dead_ones_taken_over(study, tmp_path, done):
  folder = tmp_path / "runs" / "two-seed3"
  claims.take(folder, QUICK.timing).release()
  path = folder / claims.FOLDER / "000001.json"
  path.write_text(json.dumps({"where": "process 7 on far", "host": "far", "released": False}))
  patient = runner.Options(timing=claims.Timing(0.05, dead_after=3600), wait=False)
  said, _ = run(study, tmp_path, patient)
  assert said[-1] == "left to process 7 on far: two-seed3" and len(done) == 6
  os.utime(path, (time.time() - 500,) * 2)
  said, _ = run(study, tmp_path)
  assert said[0].startswith("two-seed3: taken over from process 7 on far, silent for 5")
  assert len(done) == 8


def test_a_run_whose_processes_die_again_and_again_fails(study, tmp_path, done):
  """As where the kernel kills for lack of memory: nobody is left who could say so."""
  for name in ("base-seed3", "two-seed3"):
    job = next(
      j for j in runner.jobs_of(record.begin(study, tmp_path), tmp_path) if j.run.name == name
    )
    job.folder.mkdir(parents=True)
    for _ in range(3 if name == "base-seed3" else 2):
      runner._begin_attempt(job)
  _, rows = run(study, tmp_path)
  (failed,) = [row for row in rows if row.metric == FAILED]
  assert failed.variant == "base" and "3 processes in a row died here" in failed.value


CHANGED = {
  "a variant's field": {"variants": [{"name": "two", "set": {"model.stages[0].steps": 3}}]},
  "a variant": {"variants": [{"name": "three", "set": {"model.stages[0].steps": 2}}]},
  "the seeds": {"seeds": [3, 5, 7]},
  "the budget": {"budget": {"steps": 7}},
  "the expectation": {"expectation": "I always said so."},
  "the evaluation": {"evaluation": {"num_samples": 3, "temperature": 0.5}},
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_study_that_changed_since_it_began_is_refused(what, study, photographs, tmp_path):
  record.begin(study, tmp_path)
  dirs = {name: photographs for name in ("hr_dir", "train_dir", "val_dir")}
  changed = read_study(studies_tiny.get_study() | CHANGED[what], **dirs)
  with pytest.raises(InputError, match=r"it has changed since: .* →") as refused:
    record.begin(changed, tmp_path)
  assert "\n" not in str(refused.value)
  record.begin(study, tmp_path)


def test_a_study_s_plugins_may_not_change_under_it(photographs, tmp_path, monkeypatch):
  values = studies_tiny.get_study()
  values["base"].plugins = ("plugin_kinds",)
  study = read_study(values, **{f"{name}_dir": photographs for name in ("hr", "train", "val")})
  record.begin(study, tmp_path)
  record.begin(study, tmp_path)
  monkeypatch.setattr(record, "plugin_digest", lambda name: "another")
  with pytest.raises(InputError, match=r"plugins\.plugin_kinds: '[0-9a-f]+' → 'another'"):
    record.begin(study, tmp_path)


def test_tables_of_rows(tmp_path):
  path = tmp_path / "rows.csv"
  rows = [
    Row("a", 1e-3, 0, 5, 'im,age "1"', "nll", 0.1 + 0.2, "c", "d, e", "f"),
    Row("a", 1e-3, 1, 5, "", "nll", float("inf"), "c", "d", "f"),
    Row("a", 1e-3, 1, 5, "", FAILED, "train: why, oh", "c", "d", "f"),
  ]
  write_rows(path, rows)
  assert read_rows(path) == rows
  text = path.read_text()
  for damaged, message in {
    text.replace("variant", "variety", 1): "its first line must be",
    text.replace("0.30000000000000004", "x"): "line 2: damaged",
    text[: len(text) // 2]: "damaged",
  }.items():
    path.write_text(damaged)
    with pytest.raises(InputError, match=message):
      read_rows(path)


def test_status_and_lines_of_runs(study, tmp_path, done):
  jobs = runner.jobs_of(record.begin(study, tmp_path), tmp_path)
  assert status(jobs[0])[1:] == ("waits", "0", "", "", "")
  run(study, tmp_path)
  assert status(jobs[0])[1:3] == ("done", "6")
  with open(tmp_path / "screen", "w") as file:
    console = rich.console.Console(file=file, force_terminal=True, width=100)
    with Display(jobs, console) as display:
      display.say("hello")
  shown = (tmp_path / "screen").read_text()
  assert "base-seed3" in shown and "done" in shown and "hello" in shown


def test_the_dry_run_says_what_runs_cost(study, monkeypatch):
  monkeypatch.setattr(
    costs, "measured", lambda config, timed: costs.Measured(costs.PerStep(0, 60), 3 * 10**9)
  )
  # What counting and compiling give, `test_studies_definition.py` and the slow study ask.
  monkeypatch.setattr(costs, "flops", lambda config: costs.PerStep(0, 1e9))
  stated, timed = command.dry_run(study, tflops=0.001), command.dry_run(study)
  lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in stated.splitlines()[:4]]
  table = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
  two, base = table["two"], table["base"]
  assert (two["steps"], two["runs"], two["memory"]) == ("6", "2", "3 GB")
  assert base["receptive field"] == "25, 25"
  assert two["training FLOPs"] == "6.00e+09"
  assert two["training a run"] == "6s"
  assert "as stated by --tflops" in stated
  assert "4 runs with 6 steps a run: 24.0min of training altogether;" in timed
  assert "evaluation of each run come on top" in timed and "timed on this machine" in timed


def ablate_with(monkeypatch, capsys, *flags: str) -> tuple[int, str]:
  """The status of `ablate.py` and what it printed, in this process."""
  ablate._FLAGS.unparse_flags()
  for name in ("dry_run", "report", "study"):
    ablate._FLAGS[name].unparse()
  monkeypatch.setattr(sys, "argv", ["ablate.py", *flags])
  status = 0
  try:
    cli.run(ablate.main, ablate._FLAGS, resumes=True)
  except SystemExit as end:
    status = end.code
  said = capsys.readouterr()
  return status, said.out + said.err


def test_the_command(tmp_path, photographs, monkeypatch, capsys, done):
  study, workdir = f"--study={studies_tiny.__file__}", f"--workdir={tmp_path / 'W'}"
  dirs = [f"--{name}={photographs}" for name in ("hr_dir", "train_dir", "val_dir")]

  def ran(*flags):
    return ablate_with(monkeypatch, capsys, *flags)

  for flags, message in (
    (["--study=nowhere.py", workdir], "error: --study=nowhere.py: no such file\n"),
    ([study, workdir, "--dry_run", "--report"], "error: --dry_run and --report: give one of them"),
    ([study, workdir, "surplus"], "error: unexpected argument: surplus"),
    ([workdir, "--report"], "holds no study"),
    ([workdir], "error: --study: which?"),
  ):
    status, said = ran(*flags)
    assert status == 2 and message in said and said.count("\n") == 1
  assert not (tmp_path / "W").exists()
  status, said = ran(study, workdir, *dirs)
  assert status == 0 and "## Results" in said and len(done) == 8
  status, said = ran(workdir, "--report")
  assert status == 0 and "## Differences from base" in said

  def fail(job, stage):
    raise InputError("no luck")

  done.before = fail
  status, said = ran(study, f"--workdir={tmp_path / 'V'}", *dirs)
  assert status == ablate.RUN_FAILED and "failed: two-seed5: train: no luck" in said
