"""Equal layers in a row, as a scan: compiled once, however many there are."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax


def repeated(
  layer: type[nn.Module],
  times: int,
  methods: Mapping[str, bool],
  shared: Mapping[str, int] = {},
  batched: Sequence[str] = (),
  unroll: bool = False,
) -> type[nn.Module]:
  """Makes a class of so many layers in a row, each with parameters of its own.

  Args:
    layer: the class of one; its methods are `(carry, *xs) -> (carry, ys)`, as `jax.lax.scan`'s.
    times: how many layers.
    methods: names of the methods that run through all of them, and whether from last to first.
    shared: by method, how many of its last arguments are the same for all layers.
    batched: names of methods `(None) -> (None, ys)` of the parameters alone. On accelerators they
      run for all layers at once, as one batch; on a CPU layer after layer, since the gradient of a
      batched `slogdet` was seen to deadlock on two cores (jaxlib 0.10.2).
    unroll: lays the layers out one after the other, each compiled anew.

  Returns:
    A class whose parameters, `xs` and `ys` are those of all layers, stacked along the first axis.
  """
  each = {
    "variable_axes": {True: 0},
    "split_rngs": {"params": True},
    "length": times,
    "check_constancy_invariants": False,  # the check would trace all twice
    "unroll": times if unroll else 1,
  }
  scans = {name: each | {"reverse": backwards} for name, backwards in methods.items()}
  for name, number in shared.items():
    scans[name]["in_axes"] = (0, *[nn.broadcast] * number)
  if jax.default_backend() == "cpu":
    scans |= dict.fromkeys(batched, each)
  elif batched:
    batch = {"variable_axes": {True: 0}, "split_rngs": {"params": True}}
    batch |= {"axis_size": times, "in_axes": None}
    layer = nn.vmap(layer, methods=dict.fromkeys(batched, batch))
  return nn.scan(layer, methods=scans)
