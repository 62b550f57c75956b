"""What is done about steps that were skipped since something in them was not finite.

A skipped step changes no parameter. Each is told of at the next log, and too many in a row end the
loop, which may go back to an earlier checkpoint.
"""

from collections.abc import Callable, Sequence
from typing import Any

from srflow_jax.config import Config
from srflow_jax.training.signals import STEPS_BEHIND

Metrics = dict[str, Any]


class Diverged(Exception):
  """Too many steps in a row were skipped; the message says when."""


def too_many(config: Config, pending: Sequence[Metrics], now: bool) -> bool:
  """Whether too many steps in a row were skipped, some steps ago or `now`.

  Args:
    config: the whole configuration.
    pending: what the latest steps gave, on the devices. All but the last few were asked about after
      each of them.
    now: whether to wait for the latest step too.
  """
  latest = pending[-1 - STEPS_BEHIND :]
  asked = latest if now else latest[: len(latest) - STEPS_BEHIND]
  return any(int(m["skipped_in_a_row"]) >= config.optim.max_skipped_steps for m in asked)


def raise_if_diverged(config: Config, step: int, metrics: Sequence[Metrics]) -> None:
  """Raises `Diverged` if too many of the steps up to `step` had been skipped in a row."""
  limit = config.optim.max_skipped_steps
  for at, m in enumerate(metrics, step - len(metrics) + 1):
    if m["skipped_in_a_row"] >= limit:
      raise Diverged(
        f"step {at}: loss, gradient or update was not finite in the last {limit} steps"
      )


def told(
  step: int, metrics: Sequence[Metrics], first_place: Callable[[int], str | None]
) -> str | None:
  """How many of the latest steps were skipped, and where the last of them went wrong, in one line.

  Args:
    step: the latest step's number.
    metrics: of the steps since the last call, on the host.
    first_place: of a step's number, what in that step is not finite first if it is computed with
      the parameters of now; None if nothing is.

  Returns:
    None if none was skipped.
  """
  since = step - len(metrics) + 1
  skipped = [at for at, m in enumerate(metrics, since) if m["skipped_in_a_row"]]
  if not skipped:
    return None
  at = skipped[-1]
  if found := first_place(at):
    place = f"first in {found}"
  elif at == step:  # the parameters are still those of that step
    place = "in the optimiser's update alone"
  else:
    place = f"not found again with the parameters of step {step}"
  return f"steps {since} to {step}: {len(skipped)} skipped, not finite; step {at} {place}"
