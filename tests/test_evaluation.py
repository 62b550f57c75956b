"""Evaluations from beginning to end."""

import csv
import dataclasses
import json
import pathlib
import subprocess
import sys
import types

import ml_collections
import numpy as np
import pytest

from fakes import SCALE, FakeModel, fake_params
from srflow_jax import evaluation, images
from srflow_jax.errors import InputError
from srflow_jax.evaluation import execution, metrics, run, sheets


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  config = ml_collections.ConfigDict({"model": {"scale": SCALE}, "data": {"val_dir": ""}})
  loaded = types.SimpleNamespace(config=config, model=FakeModel(), params=fake_params(), step=7)
  monkeypatch.setattr(run, "load_run", lambda workdir, step, ema: loaded)
  return tmp_path / "work"


def test_evaluation_of_hr_images(workdir, hr_dir):
  settings = evaluation.Settings(num_samples=3)
  text = run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", settings, "the command")
  output = workdir / "evaluation"
  assert (output / "table.md").read_text().startswith("| x4 ") and "| work " in text
  summary = json.loads((output / "summary.json").read_text())
  assert summary["protocol"] == {"name": "ntire21", "version": 1, "uint8": "round"}
  assert summary["command"] == "the command" and summary["step"] == 7
  assert summary["config"]["model"]["scale"] == SCALE
  assert set(summary["systems"]) == {"bicubic", "work"}
  assert set(summary["systems"]["work"]["images"]) == {"b/one", "two", "three"}
  with open(output / "per_image.csv") as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == 6
  line = next(line for line in lines if line["image"] == "two" and line["system"] == "work")
  sample = images.read_image(output / "samples" / "work" / "two_01.png")
  assert metrics.psnr(sample, images.read_image(hr_dir / "two.png")) == pytest.approx(
    summary["systems"]["work"]["images"]["two"]["per_sample"]["psnr"][1]
  )
  assert float(line["nll"]) == summary["systems"]["work"]["images"]["two"]["nll"]
  assert images.image_size(output / "sheets" / "b" / "one.png")[1] > 800


def test_evaluation_of_lr_images(workdir, lr_dir, tmp_path):
  output = tmp_path / "out"
  run.evaluate_workdirs(
    [str(workdir)], "", str(lr_dir), str(output), evaluation.Settings(num_samples=2), ""
  )
  assert images.image_size(output / "samples" / "work" / "b" / "onex4_01.png") == (52, 68)
  assert (output / "sheets" / "twox4.png").exists()
  assert (
    json.loads((output / "summary.json").read_text())["systems"]["work"]["averages"]["psnr"] is None
  )


def test_several_temperatures_and_runs_in_one_table(workdir, hr_dir):
  folders = [str(workdir), str(workdir.parent / "other")]
  settings = evaluation.Settings(num_samples=2)
  run.evaluate_workdirs(folders, str(hr_dir), "", "", settings, "", [0.0, 0.5])
  summary = json.loads((workdir / "evaluation" / "summary.json").read_text())
  assert summary["temperatures"] == [0, 0.5]
  systems = summary["systems"]
  assert list(systems) == ["bicubic", "work t=0", "work t=0.5", "other t=0", "other t=0.5"]
  assert summary["models"]["other t=0.5"]["temperature"] == 0.5
  averages = {name: system["averages"] for name, system in systems.items()}
  assert averages["work t=0"]["diversity"] == 0 < averages["work t=0.5"]["diversity"]
  assert averages["work t=0.5"]["psnr"] < averages["work t=0"]["psnr"]
  sample = workdir / "evaluation" / "samples" / "other t=0.5" / "two_01.png"
  assert images.image_size(sample) == (64, 40)
  # A column each: bicubic, four systems, HR.
  assert images.image_size(workdir / "evaluation" / "sheets" / "two.png")[1] > 6 * sheets.PANEL


def test_both_kinds_of_8_bits_are_in_the_summary(workdir, hr_dir, tmp_path):
  summaries = []
  for mode in metrics.UINT8_MODES:
    settings = evaluation.Settings(num_samples=2, uint8_mode=mode)
    output = tmp_path / mode
    run.evaluate_workdirs([str(workdir)], str(hr_dir), "", str(output), settings, "")
    summaries.append(json.loads((output / "summary.json").read_text())["systems"]["work"])
  one, other = summaries
  assert one["averages"]["psnr"] != other["averages"]["psnr"]
  for key, value in one["other_uint8"].items():
    assert value == other["averages"][key]


def test_a_killed_evaluation_goes_on_where_it_was(workdir, hr_dir, monkeypatch):
  output = workdir / "evaluation"
  settings = evaluation.Settings(num_samples=2)

  def evaluate(kill_at=None, **changes):
    """Evaluates; returns (image's size, system) of what was really drawn."""
    calls = []

    def draw(system, lr, hr, *arguments):
      if len(calls) == kill_at:
        raise KeyboardInterrupt
      drawn = evaluation.evaluate_temperatures(system, lr, hr, *arguments)
      for samples_and_scores in drawn:
        calls.append((hr.shape, system.name))
        yield samples_and_scores

    monkeypatch.setattr(execution, "evaluate_temperatures", draw)
    chosen = dataclasses.replace(settings, **changes)
    run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", chosen, f"killed: {kill_at}")
    return calls

  def report_of_the_evaluation():
    systems = json.loads((output / "summary.json").read_text())["systems"]
    for entry in systems.values():
      for values in (entry["averages"], *entry["images"].values()):
        for name in ("time", "context_seconds", "sample_seconds"):
          values.pop(name)
    return systems

  assert len(evaluate()) == 6
  whole = report_of_the_evaluation()
  with pytest.raises(KeyboardInterrupt):
    evaluate(kill_at=3)
  with open(output / "progress.jsonl", "a") as file:
    file.write('{"image": "thr')  # killed while it wrote
  assert not (output / "sheets" / "three.png").exists()  # the first evaluation's was removed
  assert len(evaluate()) == 3
  assert report_of_the_evaluation() == whole and not (output / "progress.jsonl").exists()
  with pytest.raises(KeyboardInterrupt):
    evaluate(kill_at=4)
  assert len(evaluate(seed=1)) == 6  # another evaluation begins anew
  assert report_of_the_evaluation() != whole


def test_runs_of_different_scales_are_refused(workdir, hr_dir, monkeypatch):
  def load_run(folder, step, ema):
    scale = SCALE if folder == str(workdir) else 8
    config = ml_collections.ConfigDict({"model": {"scale": scale}})
    return types.SimpleNamespace(config=config, model=FakeModel(), params=fake_params(), step=7)

  monkeypatch.setattr(run, "load_run", load_run)
  with pytest.raises(InputError, match=r"other enlarges by 8, .*work by 4"):
    run.evaluate_workdirs([str(workdir), "other"], "", "", "", evaluation.Settings(), "")


@pytest.mark.parametrize(
  "temperatures, message", [([0.5, 0.5], "one is there twice"), ([0.5, -1], "temperature is -1")]
)
def test_temperatures_that_cannot_be_meant(workdir, temperatures, message):
  with pytest.raises(InputError, match=message):
    run.evaluate_workdirs([str(workdir)], "", "", "", evaluation.Settings(), "", temperatures)


def test_an_image_beyond_the_budget_is_named_before_anything_is_drawn(workdir, hr_dir, tmp_path):
  images.write_png(hr_dir / "a.png", np.zeros((64, 40, 3), np.uint8))
  budget = run.Memory(1.0005)
  with pytest.raises(InputError, match=r"one\.png: an image of 16x12 LR .* not fit 1\.00 GB"):
    run.evaluate_workdirs(
      [str(workdir)], str(hr_dir), "", "", evaluation.Settings(), "", memory=budget
    )
  assert not list((workdir / "evaluation" / "samples").glob("*"))


def test_output_that_cannot_be_written(workdir, hr_dir, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="cannot be written"):
    run.evaluate_workdirs(
      [str(workdir)], str(hr_dir), "", str(tmp_path / "file" / "out"), evaluation.Settings(), ""
    )


def test_systems_of_one_name_are_refused(workdir, hr_dir):
  with pytest.raises(InputError, match="two systems are called bicubic"):
    run.evaluate_workdirs(
      [str(workdir.parent / "bicubic")], str(hr_dir), "", "", evaluation.Settings(), ""
    )


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--workdir=missing"], "no such workdir: missing"),
    (["--workdir=missing", "--num_samples=0"], "num_samples is 0: it must be at least 1"),
    (["--workdir=missing", "--max_memory_gb=-1"], "no such workdir: missing"),
    (["--workdir=missing", "--temperatures=0,x"], "--temperatures=0,x: not numbers"),
    (
      ["--workdir=missing", "--checkpoint=1e3"],
      "--checkpoint=1e3: neither latest nor best nor a step",
    ),
    (["--workdir=missing", "extra"], "unexpected argument: extra"),
  ],
)
def test_command_line_reports_a_mistake_in_one_line(flags, message):
  script = pathlib.Path(evaluation.__file__).parents[2] / "evaluate.py"
  result = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
  assert result.returncode == 2
  assert result.stderr == f"error: {message}\n"
