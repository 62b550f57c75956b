"""Equal layers in a row, as a scan: compiled once, however many there are."""

from collections.abc import Mapping

import flax.linen as nn


def repeated(
  layer: type[nn.Module], times: int, methods: Mapping[str, bool], shared: Mapping[str, int] = {}
) -> type[nn.Module]:
  """Makes a class of so many layers in a row, each with parameters of its own.

  Args:
    layer: the class of one; its methods are `(carry, *xs) -> (carry, ys)`, as `jax.lax.scan`'s.
    times: how many layers.
    methods: names of the methods that run through all of them, and whether from last to first.
    shared: by method, how many of its last arguments are the same for all layers.

  Returns:
    A class whose parameters, `xs` and `ys` are those of all layers, stacked along the first axis.
  """
  each = {
    "variable_axes": {True: 0},
    "split_rngs": {"params": True},
    "length": times,
    "check_constancy_invariants": False,  # the check would trace all twice
  }
  scans = {name: each | {"reverse": backwards} for name, backwards in methods.items()}
  for name, number in shared.items():
    scans[name]["in_axes"] = (0, *[nn.broadcast] * number)
  return nn.scan(layer, methods=scans)
