"""Sentences that name the samples and images in which something went wrong."""

from collections.abc import Sequence

from srflow_jax.evaluation.drawing import OUTSIDE
from srflow_jax.evaluation.report import Row, printable

_MAX_NAMED = 5
# Grey levels by which an image may differ from what its latents decode to. Of a flow that inverts
# itself it is 0.3 at most in bfloat16, and 1 where the target replaces what LR, rounded, decides.
_ROUND_TRIP = 2.0

_KINDS = {
  "not_finite": "values that are not finite, which count as black",
  "outside": f"values outside [{OUTSIDE[0]:g}, {OUTSIDE[1]:g}], where 1 is white",
}


def sentences(rows: Sequence[Row]) -> list[str]:
  """A sentence for each kind of fault that samples or flows have."""
  found = [*(of_kind(kind, rows) for kind in _KINDS), of_round_trips(rows)]
  return [sentence for sentence in found if sentence]


def of_kind(kind: str, rows: Sequence[Row]) -> str:
  """Names the samples that have a kind of values.

  Args:
    kind: "not_finite" or "outside", the name of the counts in `Scores`.
    rows: The scores.

  Returns:
    A sentence with names, the number of each sample (as in its file's name) and its share of such
    values; empty if there are none.
  """
  named = [
    printable(f"{row.system}: {row.image} sample {number:02d} ({_percent(count, row)})")
    for row in rows
    for number, count in enumerate(getattr(row.scores, kind))
    if count
  ]
  if not named:
    return ""
  plural = "s have" if len(named) > 1 else " has"
  return f"{len(named)} sample{plural} {_KINDS[kind]}: {_list(named)}."


def of_round_trips(rows: Sequence[Row]) -> str:
  """Names the images that are not what their own latents decode to; empty if there are none."""
  named = [
    printable(f"{row.system}: {row.image} (by {error:.3g} grey levels)")
    for row in rows
    if (error := row.scores.round_trip_error) is not None and not error <= _ROUND_TRIP
  ]
  if not named:
    return ""
  return f"The flow does not invert itself, image → latents → image differs: {_list(named)}."


def _list(named: Sequence[str]) -> str:
  rest = len(named) - _MAX_NAMED
  more = f", and {rest} more, which summary.json names" if rest > 0 else ""
  return f"{', '.join(named[:_MAX_NAMED])}{more}"


def _percent(count: int, row: Row) -> str:
  share = 100 * count / (3 * row.size[0] * row.size[1])
  return f"{share:.1f} %" if share >= 0.1 else "below 0.1 %"
