"""A study of two variants and two seeds that takes seconds; this file is its `--study`."""

import pathlib

import numpy as np
from PIL import Image

import runs

STEPS = 6


def get_study():
  config = runs.get_config()
  config.update(eval_every_steps=3, checkpoint_every_steps=2, log_every_steps=2)
  return {
    "question": "Does a second step pay?",
    "expectation": "The nll falls, within six steps by less than seeds differ.",
    "base": config,
    "variants": [
      {"name": "two", "set": {"model.stages[0].steps": 2, "model.conditioner.width": 6}}
    ],
    "seeds": [3, 5],
    "budget": {"steps": STEPS},
    "evaluation": {"num_samples": 2, "temperature": 0.5},
  }


def write_photographs(folder: pathlib.Path, count: int = 3) -> pathlib.Path:
  """Images of 72x64 pixels, smooth and each different."""
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  for number in range(count):
    coarse = Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8))
    coarse.resize((64, 72), Image.Resampling.BICUBIC).save(folder / f"photo{number}.png")
  return folder
