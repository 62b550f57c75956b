"""Evaluation: systems, what they are measured on, and the report.

`run` puts them together; it is not imported here because it needs `srflow_jax.training`, which may
itself evaluate.
"""

from srflow_jax.evaluation.evaluator import Scores, Settings, evaluate_image
from srflow_jax.evaluation.systems import Bicubic, Flow, System

__all__ = [
  "Bicubic",
  "Flow",
  "Scores",
  "Settings",
  "System",
  "evaluate_image",
]
