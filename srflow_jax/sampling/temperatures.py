"""Temperatures: one for all latents, or one for each level of them.

A level is a latent of the flow: the finest comes first, as everywhere. In text, the temperatures of
levels are separated by slashes: `0.8/0.9`.
"""

import math
import numbers

from srflow_jax.errors import InputError

Temperature = float | tuple[float, ...]


def parse_temperature(text: str) -> Temperature:
  """Reads `0.8` or `0.8/0.9`; `InputError` if it is neither."""
  try:
    first, *others = map(float, text.split("/"))
  except ValueError:
    raise InputError(
      f"temperature {text!r} is no number, nor one for each level such as 0.8/0.9"
    ) from None
  temperature = (first, *others) if others else first
  check_temperature(temperature)
  return temperature


def temperature_text(temperature: Temperature) -> str:
  """Writes what `parse_temperature` reads."""
  return "/".join(f"{level:g}" for level in _levels(temperature))


def check_temperature(temperature: Temperature, num_levels: int | None = None) -> None:
  """Raises `InputError` for what is no temperature, or not one of a model.

  Args:
    temperature: Standard deviation of the latents.
    num_levels: How many latents the model has; None if that is not known yet.
  """
  if not all(isinstance(level, numbers.Real) for level in _levels(temperature)):
    raise InputError(f"temperature is {temperature!r}: it must be a number, or one for each level")
  if not all(0 <= level < math.inf for level in _levels(temperature)):
    shown = temperature_text(temperature) if isinstance(temperature, tuple) else temperature
    raise InputError(f"temperature is {shown}: it must be 0 or more, and finite")
  if num_levels is not None and isinstance(temperature, tuple) and len(temperature) != num_levels:
    raise InputError(
      f"temperature is {temperature_text(temperature)}, for {len(temperature)} levels of latents: "
      f"this model has {num_levels}"
    )


def draws_noise(temperature: Temperature) -> bool:
  """Whether samples differ: whether the temperature of some level is above 0."""
  return any(_levels(temperature))


def _levels(temperature: Temperature) -> tuple[float, ...]:
  return temperature if isinstance(temperature, tuple) else (temperature,)
