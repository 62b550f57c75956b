"""How a command ended that draws samples."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How it ended.

  Attributes:
    text: What to tell the user. Where samples are not finite the last line names them.
    finite: Whether all samples are finite.
  """

  text: str
  finite: bool
