"""Evaluation: systems, what they are measured on, and the report.

`run` puts them together. It is not imported here, since training, which evaluates a few patches,
needs no more than what is.
"""

from srflow_jax.evaluation.evaluator import (
  Scores,
  Settings,
  evaluate_image,
  evaluate_recipes,
)
from srflow_jax.evaluation.recipes import Recipe
from srflow_jax.evaluation.systems import Bicubic, System, Trained

__all__ = [
  "Bicubic",
  "Recipe",
  "Scores",
  "Settings",
  "System",
  "Trained",
  "evaluate_image",
  "evaluate_recipes",
]
