"""The two commands on files: the table that `evaluate.py` writes shows what the metrics say."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
from PIL import Image

import runs
import srflow_jax
from srflow_jax.evaluation import luma, metrics
from srflow_jax.images import read_image
from srflow_jax.ops.resize import bicubic_resize

SCALE, NUM_SAMPLES = 4, 2
CROPPED = 64, 48  # to a multiple of 8, of the photographs' 67x50


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
  """(workdir, photographs by name) of a run of five steps and its evaluation."""
  folder = tmp_path_factory.mktemp("commands")
  photographs, workdir = folder / "photographs", folder / "run"
  photographs.mkdir()
  crops = {"cat": skimage.data.cat()[100:167, 150:200], "coffee": skimage.data.coffee()[:67, :50]}
  for name, crop in crops.items():
    Image.fromarray(crop).save(photographs / f"{name}.png")
  sets = [f"--config.data.{name}={photographs}" for name in ("train_dir", "val_dir")]
  runs.ended(runs.Process(workdir, "--config.num_train_steps=5", *sets))
  command = [sys.executable, "evaluate.py", f"--workdir={workdir}", f"--hr_dir={photographs}"]
  command += [f"--num_samples={NUM_SAMPLES}", "--temperature=0.5"]
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  result = subprocess.run(
    command, cwd=runs.ROOT, env=environment, capture_output=True, text=True, timeout=runs.TIMEOUT
  )
  assert result.returncode == 0, result.stderr
  return workdir, {name: crop[: CROPPED[0], : CROPPED[1]] for name, crop in crops.items()}


def table(workdir) -> dict[str, dict[str, str]]:
  """The written table: by system, its cells by column."""
  text = (workdir / "evaluation" / "table.md").read_text()
  lines = [line for line in text.splitlines() if line.startswith("|")]
  cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
  return {line[0]: dict(zip(cells[0], line, strict=True)) for line in cells[2:]}


def measured(samples: np.ndarray, hr: np.ndarray) -> dict[str, float]:
  """An image's values by column, by the metrics themselves; samples are uint8 `[N, H, W, 3]`."""
  of_luma = [luma.psnr_and_ssim(sample, hr, SCALE) for sample in samples]
  lpips = metrics.lpips_scores(samples, hr)
  return {
    "LR-PSNR": np.mean(metrics.lr_psnr(samples, hr, SCALE)),
    "PSNR": np.mean([metrics.psnr(sample, hr) for sample in samples]),
    "SSIM": np.mean([metrics.ssim(sample, hr) for sample in samples]),
    "PSNR-Y": np.mean([psnr for psnr, _ in of_luma]),
    "SSIM-Y": np.mean([ssim for _, ssim in of_luma]),
    "LPIPS mean": lpips.mean,
    "global": lpips.global_best,
    "local": lpips.local_best,
    "diversity": lpips.diversity,
  }


def means(of_images: list[dict[str, float]]) -> dict[str, float]:
  return {column: np.mean([values[column] for values in of_images]) for column in of_images[0]}


def assert_shown(cells: dict[str, str], values: dict[str, float]) -> None:
  """Each cell is its value, to the digits that the table shows."""
  for column, value in values.items():
    digits = len(cells[column].partition(".")[2])
    assert float(cells[column]) == pytest.approx(value, abs=0.51 * 10**-digits), column


def test_the_table_has_bicubic_s_numbers(evaluated):
  workdir, photographs = evaluated
  of_images = []
  for hr in photographs.values():
    enlarged = bicubic_resize(bicubic_resize(hr, 1 / SCALE), SCALE)
    of_images.append(measured(enlarged[None], hr))
  assert_shown(table(workdir)["bicubic"], means(of_images))


def test_the_table_has_the_samples_numbers(evaluated):
  workdir, photographs = evaluated
  folder = workdir / "evaluation" / "samples" / "run"
  model, of_images = srflow_jax.load(workdir), []
  for name, hr in photographs.items():
    files = [folder / f"{name}_{index:02d}.png" for index in range(NUM_SAMPLES)]
    samples = np.stack([read_image(file) for file in files])
    assert (samples[0] != samples[1]).any()
    bits = -model.log_prob(hr) / (math.prod(CROPPED) * math.log(2))
    of_images.append(measured(samples, hr) | {"nll": bits})
  assert_shown(table(workdir)["run"], means(of_images))


def test_the_run_has_a_table_of_its_parameters(evaluated):
  workdir, _ = evaluated
  text = (workdir / "parameters.txt").read_text()
  assert "| flow/stages_0/steps/actnorm/bias " in text and "Total: " in text
