"""Evaluations from beginning to end."""

import csv
import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import sys
import types
from typing import ClassVar
from unittest.mock import Mock

import ml_collections
import numpy as np
import pytest
from PIL import Image, ImageCms

from configs import x4_da
from fakes import SCALE, SIGMA, FakeModel, fake_params, pair
from models import bound, random_params, small_model
from srflow_jax import evaluation, images
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.evaluation import execution, metrics, run, sheets
from srflow_jax.evaluation.evaluator import Scores
from srflow_jax.evaluation.inputs import find_images
from srflow_jax.evaluation.lpips import lpips_maps
from srflow_jax.evaluation.progress import Progress
from srflow_jax.evaluation.recipes import Recipe
from srflow_jax.evaluation.report import Row
from srflow_jax.model.building import build_model
from srflow_jax.model.encoders import Encoder
from srflow_jax.model.features import Given
from srflow_jax.model.kinds import read_part
from srflow_jax.model.noises import GaussianNoise, Noise
from srflow_jax.runs import note_import


class FakeEncoder(FakeModel):
  stochastic: ClassVar[bool] = False


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  config = ml_collections.ConfigDict({"model": {"scale": SCALE}, "data": {"val_dir": ""}})
  loaded = types.SimpleNamespace(config=config, model=FakeModel(), params=fake_params(), step=7)
  monkeypatch.setattr(run, "load_model", lambda workdir, step, ema: loaded)
  return tmp_path / "work"


def test_evaluation_of_hr_images(workdir, hr_dir):
  settings = evaluation.Settings(num_samples=3)
  outcome = run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", settings, "the command")
  output = workdir / "evaluation"
  assert (output / "table.md").read_text().startswith("| x4 ") and "| work " in outcome.text
  assert outcome.finite and "error" not in outcome.text
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
  luma_protocol = {"name": "y_border", "version": 1, "uint8": "round", "border": SCALE}
  assert summary["luma_protocol"] == luma_protocol
  assert summary["systems"]["work"]["averages"]["ssim_y"] < 1
  assert images.image_size(output / "sheets" / "b" / "one.png")[1] > 800
  bands = summary["systems"]["work"]["calibration"]["bands"]
  assert len(bands) == 5 and all(len(band["ranks"]) == 4 for band in bands)
  assert "<h2>Calibration</h2>" in (output / "report.html").read_text()


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
  samples = workdir / "evaluation" / "samples"
  assert images.image_size(samples / "other t=0.5" / "two_01.png") == (64, 40)
  assert not (samples / "other t=0" / "two_01.png").exists()  # it would equal the first
  # A column each: bicubic, four systems, HR.
  assert images.image_size(workdir / "evaluation" / "sheets" / "two.png")[1] > 6 * sheets.PANEL


@pytest.mark.slow
def test_consistent_samples_are_a_row_beside_the_plain_ones(workdir, hr_dir):
  settings = evaluation.Settings(num_samples=2, consistent=True)
  run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", settings, "", [0.0, 0.5])
  output = workdir / "evaluation"
  systems = json.loads((output / "summary.json").read_text())["systems"]
  names = ["work t=0", "work t=0 consistent", "work t=0.5", "work t=0.5 consistent"]
  assert list(systems) == ["bicubic", *names]
  averages = {name: system["averages"] for name, system in systems.items()}
  assert float(averages["work t=0.5 consistent"]["lr_psnr_worst"]) > 60
  assert averages["work t=0.5"]["lr_psnr"] < 50 and averages["work t=0.5"]["nll"] is not None
  assert averages["work t=0.5 consistent"]["nll"] is None  # the model's density is of its samples
  assert images.image_size(output / "samples" / "work t=0.5 consistent" / "two_01.png") == (64, 40)
  assert not (output / "samples" / "work t=0 consistent" / "two_01.png").exists()


@pytest.mark.slow
def test_denoised_samples_are_rows(workdir, hr_dir, monkeypatch):
  """A flow of noise alone, about the enlarged LR image: without it, all samples are that image."""
  loaded = run.load_model(str(workdir), None, True)
  data = types.SimpleNamespace(noise=GaussianNoise(255 * SIGMA))
  loaded.config = types.SimpleNamespace(model=loaded.config.model, data=data, to_dict=dict)
  # An encoder alone, whose training adds no noise, stands beside it.
  none = types.SimpleNamespace(noise=GaussianNoise(0.0))
  encoder = types.SimpleNamespace(**vars(loaded) | {"model": FakeEncoder()})
  encoder.config = types.SimpleNamespace(model=loaded.config.model, data=none, to_dict=dict)
  found = {str(workdir): loaded, "encoder": encoder}
  monkeypatch.setattr(run, "load_model", lambda folder, step, ema: found[folder])
  settings = evaluation.Settings(num_samples=2, denoise=(0.5, 1.0), consistent=True)
  run.evaluate_workdirs(list(found), str(hr_dir), "", "", settings, "")
  summary = json.loads((workdir / "evaluation" / "summary.json").read_text())
  names = ["work", "work denoised x0.5", "work denoised"]
  assert list(summary["systems"]) == [
    "bicubic",
    *(row for name in names for row in (name, f"{name} consistent")),
    "encoder",
    "encoder consistent",
  ]
  averages = [summary["systems"][name]["averages"] for name in names]
  assert averages[0]["psnr"] + 2 < averages[1]["psnr"] < averages[2]["psnr"] - 0.5
  assert averages[2]["diversity"] == 0 < averages[1]["diversity"] and summary["denoise"] == [0.5, 1]
  for noise, message in [(GaussianNoise(0.0), "training added none"), (Noise(), "not always")]:
    monkeypatch.setattr(Noise, "kind", "any", raising=False)
    data.noise = noise
    with pytest.raises(InputError, match=message):
      run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", settings, "")


@pytest.mark.slow
def test_mean_and_medoid_are_rows_of_one_image(workdir, hr_dir):
  settings = evaluation.Settings(num_samples=4, estimates=True)
  run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", settings, "", [0.0, 0.9])
  output = workdir / "evaluation"
  systems = json.loads((output / "summary.json").read_text())["systems"]
  rows = ["work t=0.9", "work t=0.9 mean of 4", "work t=0.9 medoid of 4"]
  assert list(systems) == ["bicubic", "work t=0", *rows]
  psnr = {name: system["averages"]["psnr"] for name, system in systems.items()}
  assert psnr["work t=0.9 mean of 4"] > systems["work t=0.9"]["averages"]["psnr_best"]
  folder = output / "samples"
  for image in ("two", "three", "b/one"):
    samples = [images.read_image(folder / rows[0] / f"{image}_{i:02d}.png") for i in range(4)]
    mean, medoid = (images.read_image(folder / row / f"{image}_00.png") for row in rows[1:])
    np.testing.assert_array_equal(mean, np.rint(np.mean(samples, 0)))
    sums = [sum(lpips.mean() for lpips in lpips_maps(np.stack(samples), x)) for x in samples]
    np.testing.assert_array_equal(medoid, samples[int(np.argmin(sums))])
    of_medoid = systems[rows[2]]["images"][image]
    assert of_medoid["psnr"] in systems[rows[0]]["images"][image]["per_sample"]["psnr"]
    assert of_medoid["diversity"] == 0 and of_medoid["nll"] is None
  assert not (folder / rows[1] / "two_01.png").exists()


def test_the_encoder_alone_is_an_estimate_too(hr_dir):
  model = small_model("x4_da")
  params = random_params(model, dtype=np.float32)
  entry = run._encoder_entry("m", types.SimpleNamespace(model=model, params=params), run.Memory())
  lr, _ = pair(hr_dir)
  (image,), scores = evaluation.evaluate_image(entry.system, lr, None, evaluation.Settings(2))
  lrs = Given(np.float32(lr[None] / 255))
  expected = bound(model, params)("super_resolve")(lrs)[0]
  np.testing.assert_allclose(image, np.clip(expected, 0, 1) * 255, atol=0.51)
  assert entry.name == "m encoder" and len(scores.outside) == 1


@pytest.mark.parametrize(
  "target, step, encoder_init, imported, shown",
  [
    ("hr", 5, "", False, False),  # its last layers are as they were drawn
    ("hr", 5, "realsr", False, True),
    ("hr", 6, "realsr", False, False),  # the blocks have been trained since, they have not
    ("hr", 0, "", True, True),
    ("hr", 1, "", True, False),
    ("less_encoder", 6, "", False, True),
  ],
)
def test_an_encoder_is_no_estimate_unless_trained_for_it(
  target, step, encoder_init, imported, shown, tmp_path, capsys
):
  config = x4_da.get_config()
  config.model.target = {"kind": target}
  config.optim.update(encoder_init=encoder_init, encoder_frozen_fraction=0.5)
  config.num_train_steps = 10
  if imported:
    note_import(tmp_path, {})
  config = read_config(config)
  loaded = types.SimpleNamespace(model=build_model(config.model), config=config, step=step)
  assert run._encoder_super_resolves(str(tmp_path), loaded) is shown
  assert ("no row of its encoder alone" in capsys.readouterr().out) is not shown
  loaded.model = loaded.model.clone(encoder_part=read_part(Encoder, "none", ""))
  assert not run._encoder_super_resolves(str(tmp_path), loaded)


@pytest.mark.parametrize("count, lr_side, message", [(2, 8, "estimates need 3"), (3, 7, "28x28")])
def test_estimates_that_cannot_be_made(count, lr_side, message, workdir, tmp_path):
  images.write_png(tmp_path / "lr" / "a.png", np.zeros((lr_side, lr_side, 3), np.uint8))
  settings = evaluation.Settings(num_samples=count, estimates=True)
  with pytest.raises(InputError, match=message):
    run.evaluate_workdirs([str(workdir)], "", str(tmp_path / "lr"), "", settings, "")


def test_a_restart_that_fails_loses_no_measured_row(tmp_path, monkeypatch):
  progress = Progress(tmp_path, "these settings")
  scores = Scores(1.0, 2.0, lr_psnr=(3.0,), psnr=(4.0,), not_finite=(0,), outside=(0,))
  progress.add(Row("a", "m", (8, 8), scores))
  with monkeypatch.context() as full:
    full.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(InputError, match=r"progress.jsonl: cannot be written: No space left"):
      Progress(tmp_path, "these settings")
  assert Progress(tmp_path, "these settings").get("a", "m").scores == scores
  # It is replaced whole, not emptied and filled again: what it was is still behind another name.
  before = (tmp_path / "progress.jsonl").read_text()
  os.link(tmp_path / "progress.jsonl", tmp_path / "linked")
  assert len(Progress(tmp_path, "other settings")) == 0
  assert (tmp_path / "linked").read_text() == before


def test_samples_of_temperatures_of_levels_are_in_a_folder_of_their_own(hr_dir):
  system = types.SimpleNamespace(stochastic=True)
  entry = execution.Entry("W t=0.8/0.9", system, Recipe((0.8, 0.9)))
  (image, *_) = find_images(SCALE, str(hr_dir), "")
  (path, _) = execution._sample_paths(image, entry, evaluation.Settings(2))
  assert path == pathlib.Path(f"samples/W t=0.8-0.9/{image.name}_00.png")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_was(workdir, hr_dir, monkeypatch):
  output = workdir / "evaluation"
  settings = evaluation.Settings(num_samples=2)

  def evaluate(kill_at=None, **changes):
    """Evaluates; returns (image's size, system) of what was really drawn."""
    calls = []

    def draw(system, lr, hr, *arguments):
      if len(calls) == kill_at:
        raise KeyboardInterrupt
      drawn = evaluation.evaluate_recipes(system, lr, hr, *arguments)
      for samples_and_scores in drawn:
        calls.append((hr.shape, system.name))
        yield samples_and_scores

    monkeypatch.setattr(execution, "evaluate_recipes", draw)
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


def test_what_is_not_finite_or_exploded_is_named_and_ends_nothing(
  workdir, hr_dir, monkeypatch, capsys
):
  decode = FakeModel.decode_samples

  def broken(self, latents, context, num_samples):
    samples = decode(self, latents, context, num_samples)
    width, height = context.hr_size[1], context.hr_size[0]
    if (height, width) == (48, 64):  # b/one
      samples = samples.at[..., 0, 0, 0].set(np.nan)
    return samples.at[..., 1, :2, 1].set(-1e9)

  monkeypatch.setattr(FakeModel, "decode_samples", broken)
  settings = evaluation.Settings(num_samples=2)
  outcome = run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", settings, "")
  output = workdir / "evaluation"
  assert not outcome.finite
  expected = (
    "error: 2 samples have values that are not finite, which count as black: work: b/one sample 00 "
    "(below 0.1 %), work: b/one sample 01 (below 0.1 %)."
  )
  assert outcome.text.splitlines()[-1] == expected
  exploded = "6 samples have values outside [-1, 2], where 1 is white: work: b/one sample 00"
  assert exploded in (output / "table.md").read_text()
  assert "warning: 2 samples have values that are not finite" in capsys.readouterr().err
  systems = json.loads((output / "summary.json").read_text())["systems"]
  one = systems["work"]["images"]["b/one"]
  assert one["per_sample"]["not_finite"] == [1, 1] and one["not_finite"] == 2
  assert systems["work"]["images"]["two"]["per_sample"]["outside"] == [2, 2]
  assert systems["bicubic"]["images"]["two"]["outside"] == 0
  assert not images.read_image(output / "samples" / "work" / "b" / "one_01.png")[0, 0, 0]
  with open(output / "per_image.csv") as file:
    counts = {(line["image"], line["system"]): line["not_finite"] for line in csv.DictReader(file)}
  assert counts["b/one", "work"] == "2" and counts["two", "work"] == "0"


def test_what_an_earlier_evaluation_wrote_is_removed(workdir, hr_dir):
  output = workdir / "evaluation"

  def evaluate(**settings):
    chosen = evaluation.Settings(**settings)
    run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", chosen, "")
    return sorted(str(path.relative_to(output)) for path in output.rglob("*.png"))

  first = evaluate(num_samples=3)
  (output / "samples" / "work" / "mine.png").write_bytes(b"not the evaluation's")
  (hr_dir / "b" / "one.png").rename(hr_dir / "four.png")
  second = evaluate(num_samples=1)
  assert "samples/work/b/one_02.png" in first and "samples/work/mine.png" in second
  assert not [path for path in second if "/b/" in path or path.endswith("_02.png")]
  assert not (output / "sheets" / "b").exists()
  (output / "files.json").write_text('["../config.json"]')
  with pytest.raises(InputError, match="lies outside of the folder"):
    evaluate(num_samples=1)


@pytest.mark.parametrize("kind", ["hr_dir", "lr_dir", "validation"])
def test_images_that_an_earlier_evaluation_wrote_are_not_removed_as_its_output(
  kind, workdir, hr_dir
):
  def evaluate(hr_dir, lr_dir=""):
    chosen = evaluation.Settings(num_samples=1)
    return run.evaluate_workdirs([str(workdir)], hr_dir, lr_dir, "", chosen, "")

  evaluate(str(hr_dir))
  output = workdir / "evaluation"
  given = str(output / "samples" / "work")
  before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
  if kind == "validation":
    run.load_model("", None, True).config.data.val_dir = given
  folders = {"hr_dir": (given,), "lr_dir": ("", given), "validation": ("",)}[kind]
  with pytest.raises(InputError, match=r"one_00\.png is to be evaluated, and would be removed as"):
    evaluate(*folders)
  assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_the_folder_of_images_is_no_folder_for_output(workdir, hr_dir):
  before = sorted(hr_dir.rglob("*"))
  link = hr_dir.parent / "link"
  link.symlink_to(hr_dir)
  with pytest.raises(InputError, match="link is the folder of images: give another --output_dir"):
    run.evaluate_workdirs(
      [str(workdir)], str(hr_dir), "", str(link), evaluation.Settings(num_samples=1), ""
    )
  assert sorted(hr_dir.rglob("*")) == before


@pytest.mark.parametrize("name", ["summary.json", "sheets/two.png"])
def test_what_is_no_evaluation_s_is_not_replaced(name, workdir, hr_dir):
  own = workdir / "evaluation" / name
  own.parent.mkdir(parents=True)
  own.write_text("the user's")

  def evaluate():
    run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", evaluation.Settings(1), "")

  with pytest.raises(InputError, match=f"{name} is there already, and is no evaluation's"):
    evaluate()
  assert own.read_text() == "the user's"
  own.unlink()
  evaluate()
  evaluate()
  assert own.exists()


def test_one_evaluation_at_a_time_has_a_folder(workdir, hr_dir):
  holder = (
    "import pathlib, sys, srflow_jax.runs as runs\n"
    "with runs.lock_workdir(pathlib.Path(sys.argv[1])): print('locked', flush=True); input()"
  )
  command = [sys.executable, "-c", holder, str(workdir / "evaluation")]
  root = pathlib.Path(evaluation.__file__).parents[2]
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
  with subprocess.Popen(command, cwd=root, **pipes) as other:
    assert other.stdout.readline() == b"locked\n"
    with pytest.raises(InputError, match=rf"is in use .* process {other.pid}"):
      run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", evaluation.Settings(1), "")
    other.communicate(b"\n")
  run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", evaluation.Settings(1), "")


def test_names_of_all_kinds(workdir, hr_dir, monkeypatch, capsys):
  """Dollar signs and all that Markdown, HTML and LaTeX know."""
  odd = "$a_b|<i>&%#~^\\{}"
  (hr_dir / "two.png").rename(hr_dir / f"{odd}.png")
  decode = FakeModel.decode_samples
  monkeypatch.setattr(
    FakeModel, "decode_samples", lambda self, *a: decode(self, *a).at[..., 0, 0].set(9)
  )
  folder = workdir.parent / f"_{odd}"
  settings = evaluation.Settings(num_samples=2)
  outcome = run.evaluate_workdirs([str(folder)], str(hr_dir), "", "", settings, "c", [0.5, 0.9])
  print(outcome.text)  # strictly
  output = folder / "evaluation"
  table = (output / "table.md").read_text(encoding="utf-8")
  assert r"$a_b\|<i>&%#~^\{}" in table and len(table.splitlines()) == 6 + 1
  systems = json.loads((output / "summary.json").read_text())["systems"]
  assert odd in systems[f"_{odd} t=0.5"]["images"]
  page = (output / "report.html").read_text(encoding="utf-8")
  assert "&lt;i&gt;" in page and "<i>" not in page
  assert r"\textbar{}\textless{}i\textgreater{}" in (output / "table.tex").read_text()
  assert (output / "samples" / f"_{odd} t=0.9" / f"{odd}_01.png").exists()


@pytest.mark.parametrize(
  "names, message",
  [
    (["a.webp", "a.png/b.png"], r"the folder a\.png is called like the output of image a"),
    (["a" * 250 + ".png"], "is too long a name"),
  ],
)
def test_names_that_cannot_be_written_are_refused_at_the_start(workdir, tmp_path, names, message):
  for name in names:
    images.write_png(tmp_path / "odd" / name, np.zeros((40, 40, 3), np.uint8))
  with pytest.raises(InputError, match=message):
    run.evaluate_workdirs([str(workdir)], str(tmp_path / "odd"), "", "", evaluation.Settings(1), "")


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 2), (300, 2), (1, 2100)])
def test_thin_images_are_enlarged(workdir, tmp_path, size):
  images.write_png(tmp_path / "lr" / "thin.png", np.full((*size, 3), 90, np.uint8))
  run.evaluate_workdirs([str(workdir)], "", str(tmp_path / "lr"), "", evaluation.Settings(1), "")
  sample = workdir / "evaluation" / "samples" / "work" / "thin_00.png"
  assert images.image_size(sample) == (size[0] * SCALE, size[1] * SCALE)


def test_colour_profiles_are_carried_into_what_is_written(workdir, lr_dir):
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  path = lr_dir / "twox4.png"
  images.write_png(path, images.read_image(path), profile)
  run.evaluate_workdirs([str(workdir)], "", str(lr_dir), "", evaluation.Settings(1), "")
  output = workdir / "evaluation"
  for written in ("samples/work/twox4_00.png", "samples/bicubic/twox4_00.png", "sheets/twox4.png"):
    with Image.open(output / written) as image:
      assert image.info["icc_profile"] == profile
  with Image.open(output / "samples/work/threex4_00.png") as image:
    assert "icc_profile" not in image.info


def test_an_output_beyond_pillow_s_limit_is_continued(workdir, lr_dir, monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1100)  # outputs have 2560 and more
  arguments = [str(workdir)], "", str(lr_dir), "", evaluation.Settings(1), ""
  with monkeypatch.context() as killing:
    killing.setattr(sheets.Sheet, "draw", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run.evaluate_workdirs(*arguments)
  monkeypatch.setattr(execution, "html_page", lambda *arguments: "")
  run.evaluate_workdirs(*arguments)
  assert (workdir / "evaluation" / "samples" / "work" / "twox4_00.png").exists()


def test_runs_of_different_scales_are_refused(workdir, hr_dir, monkeypatch):
  def load_run(folder, step, ema):
    scale = SCALE if folder == str(workdir) else 8
    config = ml_collections.ConfigDict({"model": {"scale": scale}})
    return types.SimpleNamespace(config=config, model=FakeModel(), params=fake_params(), step=7)

  monkeypatch.setattr(run, "load_model", load_run)
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
    (
      ["--workdir=missing", "--temperatures=0,x"],
      "--temperatures=0,x: temperature 'x' is no number, nor one for each level such as 0.8/0.9",
    ),
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
