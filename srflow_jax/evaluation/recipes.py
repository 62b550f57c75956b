"""What is made of a system's samples of an image: each recipe is a row of an evaluation's table."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from srflow_jax.sampling.temperatures import Temperature, draws_noise

Estimate = Literal["mean", "medoid"]

ESTIMATES: tuple[Estimate, ...] = ("mean", "medoid")
MIN_SAMPLES = 3  # of two, both are medoids


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How images come from latents.

  Attributes:
    temperature: Standard deviation of the latents, or of each level of them.
    denoise: Removes noise of so many times the training noise's variance (`sampling.denoising`).
    consistent: Makes the samples consistent with the LR image (`ops.consistency`).
    estimate: Makes one image of all samples (`estimates.py`); None for the samples themselves.
  """

  temperature: Temperature
  denoise: float = 0.0
  consistent: bool = False
  estimate: Estimate | None = None

  @property
  def drawn(self) -> tuple[Temperature, float]:
    """What decides the samples themselves: recipes that agree in it share them."""
    return self.temperature, self.denoise

  @property
  def plain(self) -> bool:
    """Whether the images are the samples as the system draws them."""
    return self == Recipe(self.temperature)

  def num_images(self, num_samples: int) -> int:
    """How many images are made of so many samples."""
    return 1 if self.estimate else num_samples

  def label(self, num_samples: int) -> str:
    """What follows the system's name in tables; empty for plain samples."""
    words = []
    if self.denoise:
      words.append("denoised" if self.denoise == 1 else f"denoised x{self.denoise:g}")
    if self.consistent:
      words.append("consistent")
    if self.estimate:
      words.append(f"{self.estimate} of {num_samples}")
    return " ".join(words)


def recipes_of(
  temperature: Temperature, estimates: bool, denoise: Sequence[float], consistent: bool
) -> list[Recipe]:
  """The recipes of a temperature, in the table's order.

  Args:
    temperature: Standard deviation of the latents, or of each level of them.
    estimates: Whether there are estimates; at temperature 0 there is one sample, and so there are
      none.
    denoise: For which multiples of the training noise's variance samples are denoised.
    consistent: Whether all these samples are made consistent as well.
  """
  recipes = [Recipe(temperature)]
  if estimates and draws_noise(temperature):
    recipes += [Recipe(temperature, estimate=estimate) for estimate in ESTIMATES]
  if consistent:
    recipes.append(Recipe(temperature, consistent=True))
  for multiple in denoise:
    recipes.append(Recipe(temperature, multiple))
    if consistent:
      recipes.append(Recipe(temperature, multiple, consistent=True))
  return recipes
