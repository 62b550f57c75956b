"""Data: sources of HR and LR images, the input pipeline, and the preparation of data sets."""

from srflow_jax.data.folders import photographs
from srflow_jax.data.pipeline import make_train_iterator, put_ahead, validation_batches
from srflow_jax.data.sources import describe

__all__ = ["describe", "make_train_iterator", "photographs", "put_ahead", "validation_batches"]
