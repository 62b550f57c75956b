import csv
import dataclasses
import functools
import json
import math
import pathlib
import subprocess
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import base
from srflow_jax import evaluation, images, metrics
from srflow_jax.errors import InputError
from srflow_jax.evaluation import report, run, sheets
from srflow_jax.evaluation.inputs import find_images, validation_folders
from srflow_jax.model import Context, DensityParts, build_model, init_params
from srflow_jax.resize import bicubic_resize
from srflow_jax.rrdb import EncoderSpec
from srflow_jax.sampling import Sampler
from srflow_jax.tiles import tiling

SCALE = 4
SIGMA = 0.1


class Offset(nn.Module):
  """A colour, the fake model's only parameter."""

  @nn.compact
  def __call__(self):
    return self.param("offset", nn.initializers.zeros, (3,))


def fake_params(offset=0.0):
  return {"flow": {"offset": jnp.full(3, offset)}}


class FakeModel(nn.Module):
  """LR enlarged, plus Gaussian noise: a flow whose density is known."""

  scale: int = SCALE
  lr_multiple: int = 1
  encoder_spec: EncoderSpec = EncoderSpec(1, 1, 1, (), "last_block")

  def setup(self):
    self.flow = Offset()

  def condition(self, lr):
    mean = lr.repeat(SCALE, 1).repeat(SCALE, 2) + self.flow()
    return Context(mean, hr_size=mean.shape[1:3], padded_size=mean.shape[1:3])

  def density_parts(self, hr, context):
    z = (hr - context.stages) / SIGMA
    log_det = -hr[0].size * jnp.log(SIGMA)[None]
    return DensityParts((log_det,), (jnp.sum(jax.scipy.stats.norm.logpdf(z), (1, 2, 3)),), (z,))

  def inverse_and_log_det(self, latents, context):
    return context.stages + SIGMA * latents[0], None

  def sample_from_context(self, key, context, temperature, num_samples, first, origin):
    keys = [jax.random.fold_in(key, first + i) for i in range(num_samples)]
    noise = jnp.stack([jax.random.normal(key, context.stages.shape) for key in keys])
    return context.stages + SIGMA * temperature * noise


@pytest.fixture
def flow():
  return evaluation.Trained("fake", Sampler(FakeModel(), fake_params()))


@pytest.fixture
def hr_dir(tmp_path):
  folder = tmp_path / "hr"
  rng = np.random.default_rng(0)
  for name, size in {"b/one": (50, 67), "two": (64, 40), "three": (64, 40)}.items():
    coarse = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
    images.write_png(folder / f"{name}.png", bicubic_resize(coarse, 8)[: size[0], : size[1]])
  return folder


@pytest.fixture
def lr_dir(tmp_path, hr_dir):
  folder = tmp_path / "lr"
  for path in images.list_images(hr_dir):
    relative = path.relative_to(hr_dir)
    lr = bicubic_resize(images.read_image(path), 1 / SCALE)
    images.write_png(folder / relative.with_name(f"{relative.stem}x4.png"), lr)
  return folder


def pair(hr_dir, name="two"):
  hr = images.read_image(hr_dir / f"{name}.png")
  return bicubic_resize(hr, 1 / SCALE), hr


# The evaluator.


def test_scores_are_those_of_the_metrics(flow, hr_dir):
  lr, hr = pair(hr_dir)
  seen = []
  settings = evaluation.Settings(num_samples=3)
  samples, scores = evaluation.evaluate_image(flow, lr, hr, settings, seen.append)
  assert samples.shape == (3, 64, 40, 3) and samples.dtype == np.uint8 and sum(seen) == 3 * 64 * 40
  assert scores.psnr == tuple(metrics.psnr(sample, hr) for sample in samples)
  assert scores.ssim == tuple(metrics.ssim(sample, hr) for sample in samples)
  assert scores.lr_psnr == tuple(metrics.lr_psnr(samples, hr, SCALE))
  assert scores.lpips == metrics.lpips_scores(samples, hr)
  assert scores.lpips.diversity > 0
  assert scores.context_seconds > 0 and scores.sample_seconds > 0


def test_sample_depends_on_seed_and_index_alone(flow, hr_dir):
  def draw(name, num_samples, seed=0):
    settings = evaluation.Settings(num_samples=num_samples, seed=seed)
    return evaluation.evaluate_image(flow, pair(hr_dir, name)[0], None, settings)[0]

  few, other, many = draw("two", 2), draw("three", 3), draw("two", 4)
  np.testing.assert_array_equal(few, many[:2])
  np.testing.assert_array_equal(draw("three", 1), other[:1])
  assert (many[0] != many[1]).any()
  assert (draw("two", 1, seed=1) != many[0]).any()


def test_temperature_zero_is_deterministic(flow, hr_dir):
  lr, hr = pair(hr_dir)
  settings = evaluation.Settings(num_samples=3, temperature=0)
  samples, scores = evaluation.evaluate_image(flow, lr, hr, settings)
  np.testing.assert_array_equal(samples[0], lr.repeat(SCALE, 0).repeat(SCALE, 1))
  assert scores.lpips.diversity == 0


def test_likelihood_in_both_units(flow, hr_dir):
  lr, hr = pair(hr_dir)
  scores = evaluation.evaluate_image(flow, lr, hr, evaluation.Settings(num_samples=3))[1]
  z = (hr / 255 - lr.repeat(SCALE, 0).repeat(SCALE, 1) / 255) / SIGMA
  nats = (0.5 * z**2 + 0.5 * math.log(2 * math.pi) + math.log(SIGMA)).sum()
  assert scores.round_trip_error < 1e-3 and scores.nll_log_dets[0] < 0
  assert scores.nll == pytest.approx(nats / math.log(2) / hr[..., 0].size, rel=1e-5)
  # The noise adds its variance, 1/12 of a level, to each squared difference.
  added = 0.5 / (12 * 255**2 * SIGMA**2) / math.log(2)
  expected = scores.nll / 3 + math.log2(255) + added
  assert scores.bits_per_dim == pytest.approx(expected, abs=3e-3)


def test_bicubic_is_matlab_s_and_has_no_density(hr_dir):
  lr, hr = pair(hr_dir)
  samples, scores = evaluation.evaluate_image(
    evaluation.Bicubic(SCALE), lr, hr, evaluation.Settings()
  )
  assert len(samples) == 1
  np.testing.assert_array_equal(samples[0], bicubic_resize(lr, SCALE))
  assert scores.nll is None and scores.bits_per_dim is None
  assert scores.lpips.diversity == 0
  assert scores.lpips.mean == scores.lpips.global_best == scores.lpips.local_best


def test_truncation_is_an_option(flow, hr_dir):
  lr, _ = pair(hr_dir)
  samples = {
    mode: evaluation.evaluate_image(flow, lr, None, evaluation.Settings(1, uint8_mode=mode))[0]
    for mode in ("round", "truncate")
  }
  difference = samples["round"].astype(int) - samples["truncate"]
  assert set(np.unique(difference)) == {0, 1}
  assert 0.4 < difference[(samples["round"] > 0) & (samples["round"] < 255)].mean() < 0.6


def test_values_that_are_not_finite_are_reported(hr_dir):
  broken = evaluation.Trained("fake", Sampler(FakeModel(), fake_params(jnp.nan)))
  with pytest.raises(InputError, match=r"fake: sample 0 at temperature 0\.9.*not finite"):
    evaluation.evaluate_image(broken, pair(hr_dir)[0], None, evaluation.Settings())


@pytest.mark.parametrize(
  "wrong, message",
  [
    ({"num_samples": 0}, "num_samples is 0"),
    ({"temperature": -0.1}, "temperature is -0.1"),
    ({"temperature": math.nan}, "temperature is nan"),
    ({"seed": -1}, "seed is -1"),
    ({"uint8_mode": "floor"}, "uint8 is 'floor'"),
  ],
)
def test_settings_that_cannot_be_meant(wrong, message):
  with pytest.raises(InputError, match=message):
    evaluation.Settings(**wrong).check()


def test_a_real_model_s_samples_and_nll():
  """What the evaluator draws and measures is what the model's own methods give."""
  config = base.get_config().model
  config.encoder.update(width=8, growth=4, num_blocks=1, taps=(0,))
  config.conditioner.update(width=8, num_hidden=1)
  config.stages = (
    {"squeeze": 2, "transition_steps": 1, "steps": 0, "split": True},
    {"squeeze": 4, "transition_steps": 0, "steps": 1, "split": False},
  )
  model = build_model(config)
  rng = np.random.default_rng(0)
  hr = rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)  # not a multiple of 8: padded
  lr = bicubic_resize(hr, 1 / SCALE)
  batch = [jnp.asarray(image[None] / 255, jnp.float32) for image in (hr, lr)]
  shapes = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0), *batch)
  # Small random numbers, but near the identity where there is a matrix to invert.
  params = jax.tree.map(
    lambda leaf: (
      0.05 * rng.standard_normal(leaf.shape, np.float32)
      + (np.eye(*leaf.shape, dtype=np.float32) if leaf.ndim == 2 else 0)
    ),
    shapes,
  )
  flow = evaluation.Trained("flow", Sampler(model, params))
  assert flow.num_params == sum(leaf.size for leaf in jax.tree.leaves(params["flow"]))

  settings = evaluation.Settings(num_samples=2, temperature=0.5, seed=3)
  samples, scores = evaluation.evaluate_image(flow, lr, hr, settings)
  sample = jax.jit(functools.partial(model.apply, num_samples=2, method="sample"))
  expected = sample({"params": params}, jax.random.key(3), batch[1], 0.5)[:, 0]
  assert samples.shape == expected.shape
  np.testing.assert_allclose(samples, np.clip(expected, 0, 1) * 255, atol=0.51)
  nll = jax.jit(functools.partial(model.apply, method="nll"))
  assert scores.nll == pytest.approx(float(nll({"params": params}, *batch)[0]), rel=1e-5)
  assert len(scores.nll_log_dets) == len(scores.nll_latents) == 2
  assert sum(scores.nll_log_dets + scores.nll_latents) == pytest.approx(scores.nll, rel=1e-6)
  assert 0 <= scores.round_trip_error < 0.1
  # At these parameters all scales are near sigmoid(2) + 1e-4.
  assert scores.largest_inverse_scale == pytest.approx(1 / 0.881, rel=0.3)


# Which images.


def test_hr_is_cropped_and_lr_made_from_the_crop(hr_dir):
  found = find_images(SCALE, str(hr_dir), "")
  assert [image.name for image in found] == ["b/one", "three", "two"]
  assert found[0].hr_size == (48, 64)
  lr, hr = found[0].read(SCALE)
  whole = images.read_image(hr_dir / "b" / "one.png")
  np.testing.assert_array_equal(hr, whole[:48, :64])
  np.testing.assert_array_equal(lr, bicubic_resize(hr, 1 / SCALE))
  assert find_images(16, str(hr_dir), "")[0].hr_size == (48, 64)


def test_pairs_by_name(hr_dir, lr_dir):
  found = find_images(SCALE, str(hr_dir), str(lr_dir))
  lr, hr = found[0].read(SCALE)
  assert lr.shape == (12, 16, 3) and hr.shape == (48, 64, 3)
  np.testing.assert_array_equal(lr, images.read_image(lr_dir / "b" / "onex4.png")[:12, :16])


def test_lr_alone(lr_dir):
  found = find_images(SCALE, "", str(lr_dir))
  assert found[0].hr_size == (52, 68)
  lr, hr = found[0].read(SCALE)
  assert lr.shape == (13, 17, 3) and hr is None


def test_without_folders_those_of_the_configuration(hr_dir, lr_dir, tmp_path):
  assert [image.name for image in find_images(SCALE, "", "")] == ["chelsea", "rocket"]
  assert validation_folders("") == ("", "")
  assert validation_folders(str(hr_dir)) == (str(hr_dir), "")
  assert validation_folders(f"{hr_dir}:{lr_dir}") == (str(hr_dir), str(lr_dir))
  (tmp_path / "dataset_info.json").write_text("{}")
  for data_set in (str(tmp_path), "tfds:div2k/bicubic_x4"):
    with pytest.raises(InputError, match="data set of tiles"):
      validation_folders(data_set)


def test_images_that_cannot_be_evaluated(tmp_path, hr_dir, lr_dir):
  def refused(message, hr="", lr=""):
    with pytest.raises(InputError, match=message) as error:
      find_images(SCALE, str(hr), str(lr))
    assert "\n" not in str(error.value)

  refused("no such folder", hr=tmp_path / "missing")
  refused("no such folder", lr=tmp_path / "missing")
  (tmp_path / "empty").mkdir()
  refused("no image", hr=tmp_path / "empty")
  (lr_dir / "onex4.png").write_bytes((lr_dir / "twox4.png").read_bytes())
  refused(r"onex4\.png: no HR image", hr=hr_dir, lr=lr_dir)
  (lr_dir / "onex4.png").unlink()
  small = images.read_image(lr_dir / "twox4.png")[:-2]
  images.write_png(lr_dir / "twox4.png", small)
  refused(r"twox4\.png: 10x14 pixels is not 1/4 of 40x64", hr=hr_dir, lr=lr_dir)
  (lr_dir / "twox4.png").unlink()
  refused(r"two\.png: no LR image", hr=hr_dir, lr=lr_dir)
  images.write_png(hr_dir / "small.png", np.zeros((31, 64, 3), np.uint8))
  refused(r"small\.png: 64x31 pixels, too small", hr=hr_dir)
  (hr_dir / "small.png").write_text("not an image")
  refused(r"small\.png: not a PNG", hr=hr_dir)


# The report.


def fake_scores(**changes):
  scores = {
    "context_seconds": 1.0,
    "sample_seconds": 0.5,
    "lr_psnr": (40.0, 50.0),
    "psnr": (20.0, 30.0),
    "ssim": (0.5, 0.75),
    "lpips": metrics.LpipsScores((0.2, 0.4), 0.3, 0.2, 0.1, 50.0),
    "nll": -7.25,
    "bits_per_dim": 5.5,
  }
  return evaluation.Scores(**{**scores, **changes})


def test_averages_are_of_images_and_diversity_is_not_a_ratio_of_averages():
  other = metrics.LpipsScores((0.8, 0.8), 0.8, 0.8, 0.8, 0.0)
  rows = [
    report.Row("a", "s", (8, 8), fake_scores()),
    report.Row("b", "s", (8, 8), fake_scores(lpips=other, psnr=(40.0, 50.0))),
  ]
  means = report.averages(rows)
  assert means["time"] == 1.5 and means["lr_psnr"] == 45 and means["lr_psnr_worst"] == 40
  assert means["psnr"] == 35 and means["diversity"] == 25
  assert means["lpips_global"] == 0.5 and means["lpips_local"] == pytest.approx(0.45)


def test_markdown_has_the_published_columns():
  rows = [
    report.Row("a", "bicubic", (8, 8), fake_scores(nll=None)),
    report.Row("a", "mine", (8, 8), fake_scores()),
  ]
  table = report.markdown_table(report.table_cells(4, {"bicubic": None, "mine": 8_414_064}, rows))
  lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
  heading = "x4 Params time LR-PSNR PSNR SSIM LPIPS~mean global local diversity nll"
  assert lines[0] == [name.replace("~", " ") for name in heading.split()]
  shared = ["1.50s", "45.00", "25.00", "0.6250", "0.300", "0.200", "0.100", "50.00"]
  assert lines[2] == ["bicubic", "-", *shared, "-"]
  assert lines[3] == ["mine", "8.4M", *shared, "-7.250"]
  assert len({len(line) for line in table.splitlines()}) == 1


def test_json_is_strict_about_infinity():
  rows = [report.Row("a", "s", (8, 8), fake_scores(lr_psnr=(math.inf, 50.0)))]
  text = report.strict_json(report.summary({"seed": 1}, {"s": None}, rows))
  content = json.loads(text, parse_constant=pytest.fail)
  assert content["seed"] == 1
  image = content["systems"]["s"]["images"]["a"]
  assert image["per_sample"]["lr_psnr"] == ["inf", 50.0] and image["lr_psnr_worst"] == 50.0


# Sheets.


def test_crop_is_where_there_is_something_to_see():
  side = 96
  image = np.zeros((200, 300, 3), np.uint8)
  assert sheets.busiest_crop(image) == (52, 102, side)
  assert sheets.busiest_crop(image[:20]) == (0, 140, 20)
  image[120:130, 250:260] = 255
  top, left, size = sheets.busiest_crop(image)
  assert size == side
  assert top < 120 and top + side > 130 and left < 250 and left + side > 260
  corner = np.zeros((110, 100, 3), np.uint8)
  corner[-1, -1] = 255
  assert sheets.busiest_crop(corner) == (14, 4, side)


def test_cells_of_samples():
  samples = np.zeros((4, 40, 50, 3), np.uint8)
  samples[2:] = 100
  cells = sheets.sample_cells(samples)
  assert [cell.label for cell in cells[:3]] == ["sample 1", "sample 2", "mean of 4"]
  assert (cells[2].image == 50).all()
  assert cells[3].label == "std (white: 50.0 of 255)" and (cells[3].image == 255).all()
  assert [cell.label for cell in sheets.sample_cells(samples[:1], "m")] == ["m sample"]


@pytest.mark.parametrize("size", [(40, 300), (9000, 20), (100, 100), (1000, 400)])
@pytest.mark.parametrize("count", [1, 2, 6, 7])
def test_sheet_shows_every_cell(size, count):
  shades = np.linspace(30, 220, count).astype(np.uint8)
  cells = [sheets.Cell(f"cell {i}", np.full((*size, 3), v)) for i, v in enumerate(shades)]
  sheet = sheets.comparison_sheet(cells)
  for shade in shades:
    assert (sheet == shade).all(-1).sum() >= sheets.PANEL**2


# All together.


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  config = ml_collections.ConfigDict({"model": {"scale": SCALE}, "data": {"val_dir": ""}})
  loaded = types.SimpleNamespace(config=config, model=FakeModel(), params=fake_params(), step=7)
  monkeypatch.setattr(run, "load_run", lambda workdir: loaded)
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
      calls.append((hr.shape, system.name))
      return evaluation.evaluate_image(system, lr, hr, *arguments)

    monkeypatch.setattr(run, "evaluate_image", draw)
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
  def load_run(folder):
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


def test_tiles_have_samples_and_scores_but_no_likelihood(hr_dir):
  lr, hr = pair(hr_dir)
  settings = evaluation.Settings(num_samples=2, temperature=0)
  sampler = Sampler(FakeModel(), fake_params(), overlap=2)
  cut = tiling(lr.shape[:2], 60, 2, 1)
  assert len(cut.tiles) > 1
  sampler.use(lr.shape[:2], cut, reserved=2 * 2 * hr.size)
  samples, scores = evaluation.evaluate_image(evaluation.Trained("fake", sampler), lr, hr, settings)
  np.testing.assert_array_equal(samples[1], lr.repeat(SCALE, 0).repeat(SCALE, 1))
  assert scores.psnr[0] > 10 and scores.nll is None


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
    (["--workdir=missing", "extra"], "unexpected argument: extra"),
  ],
)
def test_command_line_reports_a_mistake_in_one_line(flags, message):
  script = pathlib.Path(evaluation.__file__).parents[2] / "evaluate.py"
  result = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
  assert result.returncode == 2
  assert result.stderr == f"error: {message}\n"
