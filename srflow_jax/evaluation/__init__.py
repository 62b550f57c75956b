"""Evaluation: systems, what they are measured on, and the report.

`run` puts them together; it is not imported here because it needs `srflow_jax.training`, which may
itself evaluate.
"""

from srflow_jax.evaluation.evaluator import (
  Scores,
  Settings,
  evaluate_image,
  evaluate_temperatures,
)
from srflow_jax.evaluation.systems import Bicubic, System, Trained

__all__ = [
  "Bicubic",
  "Scores",
  "Settings",
  "System",
  "Trained",
  "evaluate_image",
  "evaluate_temperatures",
]
