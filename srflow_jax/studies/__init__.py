"""Studies: variants of a configuration, trained over seeds at one budget, and what came of it."""

from srflow_jax.studies.study import each

__all__ = ["each"]
