"""Temperatures of levels, the frontier among them, and the search that notes the best."""

import dataclasses
import json
import types

import numpy as np
import pytest

from fakes import FakeModel, fake_params
from models import bound, random_images, random_params, small_model
from srflow_jax import evaluation
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.evaluation import run
from srflow_jax.evaluation.frontier import Point, best, frontier, hypervolume
from srflow_jax.evaluation.search import temperature_grid
from srflow_jax.runs import ChosenTemperature, chosen_temperature, write_temperature
from srflow_jax.sampling.budget import Request
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.sampling.temperatures import (
  check_temperature,
  draws_noise,
  parse_temperature,
  temperature_text,
)
from test_api import small_config

BICUBIC = Point(0.0, 0.5, 40.0, 0.0)


def point(lpips, lr_psnr, diversity, temperature=1.0):
  """A point so much better than bicubic in each respect."""
  return Point(temperature, 0.5 - lpips, 40.0 + lr_psnr, diversity)


@pytest.mark.parametrize("text, value", [("0.8", 0.8), ("0", 0.0), ("0.8/0.9/1", (0.8, 0.9, 1.0))])
def test_temperatures_are_read_and_written(text, value):
  assert parse_temperature(text) == value and temperature_text(value) == text
  assert draws_noise(value) == (text != "0") and not draws_noise((0.0, 0.0))


@pytest.mark.parametrize("text", ["", "a", "0.8/", "0.8,0.9", "-0.1", "0.8/nan", "inf"])
def test_what_is_no_temperature(text):
  with pytest.raises(InputError, match="temperature"):
    parse_temperature(text)


def test_temperatures_are_of_the_model_s_levels():
  check_temperature(0.8, 3)
  check_temperature((0.8, 0.9), 2)
  with pytest.raises(InputError, match=r"0\.8/0\.9, for 2 levels of latents: this model has 3"):
    check_temperature((0.8, 0.9), 3)


@pytest.mark.slow
def test_each_level_is_drawn_at_its_own_temperature():
  model = small_model("x4_da")
  params = random_params(model, dtype=np.float32)
  _, lr = random_images(model, (6, 8), dtype=np.float32)
  sampler = Sampler(model, params)
  assert model.num_latents == len(sampler.programs.latents((6, 8))) == 2
  prepared = sampler.prepare(lr.lr[0], Request(("draw",)))

  def latents(temperature):
    ((_, _, image),) = sampler.draw(prepared, 3, range(1), temperature)
    context = bound(model, params)("condition")(lr)
    return bound(model, params)("density_parts")(image[None], context).latents

  fine, coarse = latents((0.0, 0.5))
  assert np.abs(fine).max() < 1e-2 and np.std(coarse) == pytest.approx(0.5, rel=0.2)
  np.testing.assert_allclose(coarse, latents(0.5)[1], atol=1e-2)
  with pytest.raises(InputError, match="this model has 2"):
    next(sampler.draw(prepared, 3, range(1), (0.1, 0.2, 0.3)))


def test_the_frontier_is_what_nothing_dominates():
  a, b, c = point(0.3, 2, 10), point(0.2, 5, 10), point(0.1, 1, 30)
  dominated = [point(0.2, 2, 10), point(0.3, 2, 9), point(0.1, 1, 29)]
  worse = [point(-0.1, 50, 90), point(0.4, 0, 50)]
  assert frontier([*dominated, a, *worse, b, c], BICUBIC) == [a, b, c]
  broken = dataclasses.replace(point(0.4, 9, 90), not_finite=1)
  assert frontier([broken, a, b, c], BICUBIC) == [a, b, c]
  assert frontier(worse, BICUBIC) == [] and best(worse, BICUBIC) is None
  assert best([a, b, c, *dominated], BICUBIC) == b  # 0.2 * 5 * 10 is the most


def test_hypervolumes_are_those_of_counted_cells():
  assert hypervolume([point(0.25, 2, 10)], BICUBIC) == pytest.approx(5)
  rng = np.random.default_rng(0)
  corners = rng.integers(1, 9, (12, 3))
  points = [point(x / 16, int(y), int(z)) for x, y, z in corners]
  cells = np.zeros((8, 8, 8), bool)
  for x, y, z in corners:
    cells[:x, :y, :z] = True
  assert hypervolume(points, BICUBIC) == pytest.approx(cells.sum() / 16)
  assert hypervolume([], BICUBIC) == 0


@pytest.mark.parametrize("levels, size", [(1, 11), (2, 36), (3, 64), (4, 81)])
def test_the_grid_stays_small(levels, size):
  grid = temperature_grid(levels)
  assert len(set(grid)) == size and {np.ndim(t) for t in grid} == {min(levels - 1, 1)}
  for temperature in (grid[0], grid[-1]):
    check_temperature(temperature, levels)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  """A flow of noise about the enlarged LR image, whose training images are the HR images."""
  config = small_config()
  config.data.train_dir = str(tmp_path / "hr")
  config.data.hr_patch = 16
  values = read_config(config)
  loaded = types.SimpleNamespace(config=values, model=FakeModel(), params=fake_params(), step=7)
  monkeypatch.setattr(run, "load_model", lambda workdir, step=None, ema=True: loaded)
  (tmp_path / "work").mkdir()
  return tmp_path / "work"


@pytest.mark.slow
def test_a_search_notes_what_it_chose_and_evaluation_uses_it(workdir, hr_dir, monkeypatch, capsys):
  monkeypatch.setattr("srflow_jax.evaluation.search.temperature_grid", lambda _: [0.1, 0.3, 2.0])
  # Bicubic is better than the fake flow, which would have no frontier.
  reference = Point(0.0, 2.0, 0.0, 0.0)
  measure = "srflow_jax.evaluation.search._measure"
  original = run.search_temperatures.__globals__["_measure"]

  def measured(system, *arguments):
    return [reference] if system.name == "bicubic" else original(system, *arguments)

  monkeypatch.setattr(measure, measured)
  settings = evaluation.Settings(num_samples=2)
  outcome = run.search_workdir([str(workdir)], "", "", "", settings)
  assert "3 temperatures on 3 images" in outcome.text
  found = json.loads((workdir / "search" / "frontier.json").read_text())
  assert len(found["points"]) == 3 and found["chosen"] in found["frontier"]
  assert found["hypervolume"] == found["hypervolume_of_one_temperature"] > 0  # there is one level
  lr_psnr = [p["lr_psnr"] for p in found["points"]]
  assert lr_psnr == sorted(lr_psnr, reverse=True) and found["points"][0]["diversity"] > 0
  for what in ("diversity", "lr_psnr"):
    assert (workdir / "search" / f"frontier_{what}.png").read_bytes().startswith(b"\x89PNG")
  chosen = chosen_temperature(workdir)
  assert chosen == ChosenTemperature(found["chosen"]["temperature"], 7, 3, 2)

  for temperatures, used in ((None, chosen.temperature), ((), 0.9), ((0.4,), 0.4)):
    run.evaluate_workdirs([str(workdir)], str(hr_dir), "", "", settings, "", temperatures)
    summary = json.loads((workdir / "evaluation" / "summary.json").read_text())
    assert summary["models"]["work"]["temperature"] == used
    said = f"work: temperature {used:g}, as a search chose it at step 7" in capsys.readouterr().out
    assert said == (temperatures is None)


def test_notes_are_read_as_they_were_written(tmp_path):
  assert chosen_temperature(tmp_path) is None
  chosen = ChosenTemperature((0.8, 0.9), 5, 8, 4)
  write_temperature(tmp_path, chosen)
  assert chosen_temperature(tmp_path) == chosen
  for damage in ("{}", "[]", '{"temperature": "x"}', '{"temperature": "0.8", "other": 1}', "{"):
    (tmp_path / "temperature.json").write_text(damage)
    with pytest.raises(InputError, match=r"temperature\.json"):
      chosen_temperature(tmp_path)


@pytest.mark.parametrize(
  "workdirs, lr_dir, count, message",
  [
    (["a", "b"], "", 2, "takes one --workdir"),
    (["a"], "lr", 2, "takes one --workdir"),
    (["a"], "", 1, "num_samples is 1"),
    (["x4_small"], "", 2, "give --output_dir"),
  ],
)
def test_searches_that_cannot_be_meant(workdirs, lr_dir, count, message, workdir):
  with pytest.raises(InputError, match=message):
    run.search_workdir(workdirs, "", lr_dir, "", evaluation.Settings(num_samples=count))


def test_a_search_does_not_write_among_its_images(workdir, hr_dir):
  with pytest.raises(InputError, match="hr is the folder of images: give another --output_dir"):
    run.search_workdir(["a"], str(hr_dir), "", str(hr_dir), evaluation.Settings(num_samples=2))
