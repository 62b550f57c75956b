"""The diagram of a configuration's stages: what its boxes say, and that it is drawn."""

import importlib
import pkgutil

import pytest

import configs
from srflow_jax import diagram
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model

NAMES = [m.name for m in pkgutil.iter_modules(configs.__path__) if m.name != "workdir"]


def rows_of(name):
  config = importlib.import_module(f"configs.{name}").get_config()
  return diagram.describe(build_model(config.model))


def test_the_boxes_of_srflow_da():
  (_, encoder), first, second = rows_of("x4_da")
  assert encoder.title == "rrdb encoder"
  assert [(box.title, *box.lines) for box in first] == [
    ("target", "hr", "H x W x 3"),
    ("squeeze by 2", "H/2 x W/2 x 12"),
    ("2 x transition step", "actnorm, mixer"),
    ("6 x conditional step", "actnorm, mixer", "injector, coupling"),
    ("split", "keeps 6 of 12"),
    ("gaussian prior", "given kept"),
    ("latent 1", "H/2 x W/2 x 6"),
  ]
  assert second[-1].lines == ("H/4 x W/4 x 24",)
  assert [box.title for box in first if box.sees_features] == ["6 x conditional step"]


def test_a_flow_that_does_not_begin_with_an_image_says_so():
  _, first, _, _ = rows_of("x4_null_space")
  assert first[0].lines == ("null_space", "H/4 x W/4 x 45")


def test_latents_are_numbered_and_what_enters_a_stage_is_named():
  rows = rows_of("x4_srflow")[1:]
  assert [row[0].title for row in rows] == ["target", "kept", "from stage 2"]
  latents = [box.title for row in rows for box in row if box.title.startswith("latent")]
  assert latents == ["latent 1", "latent 2"]


def test_parts_that_are_not_the_published_ones_are_named():
  assert "injector (spline), coupling (spline)" in rows_of("x4_da_spline")[1][3].lines


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_is_drawn(name, tmp_path):
  diagram.draw(rows_of(name), tmp_path / "flow.svg")
  text = (tmp_path / "flow.svg").read_text()
  assert text.count("<!-- latent") == sum(
    box.title.startswith("latent") for row in rows_of(name) for box in row
  )


def test_mistakes_are_named(tmp_path):
  rows = rows_of("tiny")
  with pytest.raises(InputError, match=r"flow.gif: the ending must be one of .svg, .pdf, .png"):
    diagram.draw(rows, tmp_path / "flow.gif")
  with pytest.raises(InputError, match="cannot be written: No such file or directory"):
    diagram.draw(rows, tmp_path / "missing" / "flow.png")
