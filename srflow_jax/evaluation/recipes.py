"""What is made of a system's samples of an image: each recipe is a row of an evaluation's table."""

import dataclasses
from typing import Literal

Estimate = Literal["mean", "medoid"]

ESTIMATES: tuple[Estimate, ...] = ("mean", "medoid")
MIN_SAMPLES = 3  # of two, both are medoids


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How images come from latents.

  Attributes:
    temperature: Standard deviation of the latents.
    consistent: Makes the samples consistent with the LR image (`ops.consistency`).
    estimate: Makes one image of all samples (`estimates.py`); None for the samples themselves.
  """

  temperature: float
  consistent: bool = False
  estimate: Estimate | None = None

  @property
  def drawn(self) -> float:
    """What decides the samples themselves: recipes that agree in it share them."""
    return self.temperature

  @property
  def plain(self) -> bool:
    """Whether the images are the samples as the system draws them."""
    return self == Recipe(self.temperature)

  def num_images(self, num_samples: int) -> int:
    """How many images are made of so many samples."""
    return 1 if self.estimate else num_samples

  def label(self, num_samples: int) -> str:
    """What follows the system's name in tables; empty for plain samples."""
    words = ["consistent"] if self.consistent else []
    if self.estimate:
      words.append(f"{self.estimate} of {num_samples}")
    return " ".join(words)


def recipes_of(temperature: float, estimates: bool, consistent: bool) -> list[Recipe]:
  """The recipes of a temperature, in the table's order.

  Args:
    temperature: Standard deviation of the latents.
    estimates: Whether there are estimates; at temperature 0 there is one sample, and so there are
      none.
    consistent: Whether there are consistent samples.
  """
  recipes = [Recipe(temperature)]
  if estimates and temperature:
    recipes += [Recipe(temperature, estimate=estimate) for estimate in ESTIMATES]
  if consistent:
    recipes.append(Recipe(temperature, consistent=True))
  return recipes
