"""What is made of a system's samples of an image: each recipe is a row of an evaluation's table."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How images come from latents.

  Attributes:
    temperature: Standard deviation of the latents.
    consistent: Makes the samples consistent with the LR image (`ops.consistency`).
  """

  temperature: float
  consistent: bool = False

  @property
  def drawn(self) -> float:
    """What decides the samples themselves: recipes that agree in it share them."""
    return self.temperature

  @property
  def plain(self) -> bool:
    """Whether the images are the samples as the system draws them."""
    return self == Recipe(self.temperature)

  @property
  def label(self) -> str:
    """What follows the system's name in tables; empty for plain samples."""
    return "consistent" if self.consistent else ""


def recipes_of(temperatures: list[float], consistent: bool) -> list[Recipe]:
  """The recipes of a system, those that share samples side by side."""
  return [
    Recipe(temperature, is_consistent)
    for temperature in temperatures
    for is_consistent in ([False, True] if consistent else [False])
  ]
