"""The names that published RRDB networks give their convolutions."""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from srflow_jax.errors import InputError

Path = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class RRDBNames:
  """One way of naming; the fields from `first` on are templates of convolutions' names.

  Attributes:
    label: what messages call it.
    global_skip: the skip (see `model.residual_encoders.RRDB`) of the networks published under
      these names; None if both exist, so that names do not say which.
    first: the first convolution.
    block: convolution {conv} of dense block {dense} (from 1) of block {block} (from 0).
    trunk: the one after {blocks} blocks.
    up: the one of the {up}-th enlargement (from 1).
    hr: the one after {ups} enlargements.
    last: the one that gives the image.
  """

  label: str
  global_skip: str | None
  first: str
  block: str
  trunk: str
  up: str
  hr: str
  last: str

  def convolutions(self, num_blocks: int, num_ups: int) -> Iterator[tuple[Path, str]]:
    """Paths (as `published.Tensor`'s) and names of all convolutions, in order of execution."""
    sizes = {"blocks": num_blocks, "after_ups": 3 * num_ups + 2, "at_end": 3 * num_ups + 4}
    yield ("encoder", "conv_first"), self.first
    for b in range(num_blocks):
      for d in range(3):
        for c in range(5):
          path = ("encoder", "blocks", b, f"dense_blocks_{d}", f"convs_{c}")
          yield path, self.block.format(block=b, dense=d + 1, conv=c + 1)
    yield ("encoder", "trunk_conv"), self.trunk.format(**sizes)
    for i in range(num_ups):
      yield ("encoder", f"upconvs_{i}"), self.up_name(i + 1)
    yield ("encoder", "hr_conv"), self.hr.format(**sizes)
    yield ("encoder", "conv_last"), self.last.format(**sizes)

  def up_name(self, up: int) -> str:
    """The name of the convolution of the `up`-th enlargement, from 1."""
    return self.up.format(up=up, up_place=3 * up)

  def num_blocks(self, names: Iterable[str]) -> int:
    """The number of blocks in a file with tensors of these names; 0 if it is named otherwise."""
    pattern = re.escape(self.block).replace(r"\{block\}", r"(\d{1,9})")
    pattern = pattern.replace(r"\{dense\}", "[123]").replace(r"\{conv\}", "[12345]")
    matches = (re.fullmatch(rf"{pattern}\.(?:weight|bias)", name) for name in names)
    return max((int(match.group(1)) + 1 for match in matches if match), default=0)


# SRFlow's own: its encoder inside a checkpoint of the flow.
SRFLOW = RRDBNames(
  label="SRFlow",
  global_skip="last_block",
  first="RRDB.conv_first",
  block="RRDB.RRDB_trunk.{block}.RDB{dense}.conv{conv}",
  trunk="RRDB.trunk_conv",
  up="RRDB.upconv{up}",
  hr="RRDB.HRconv",
  last="RRDB.conv_last",
)
# An RRDB by itself: SRFlow's pretrained ones (skip from the last block) as well as ESRGAN's (from
# the first convolution).
ESRGAN = RRDBNames(
  label="ESRGAN (new)",
  global_skip=None,
  first="conv_first",
  block="RRDB_trunk.{block}.RDB{dense}.conv{conv}",
  trunk="trunk_conv",
  up="upconv{up}",
  hr="HRconv",
  last="conv_last",
)
# Layers are counted: an enlargement takes three places, of which the second is its convolution.
ESRGAN_OLD = RRDBNames(
  label="ESRGAN (old)",
  global_skip="first_conv",
  first="model.0",
  block="model.1.sub.{block}.RDB{dense}.conv{conv}.0",
  trunk="model.1.sub.{blocks}",
  up="model.{up_place}",
  hr="model.{after_ups}",
  last="model.{at_end}",
)
BASICSR = RRDBNames(
  label="BasicSR",
  global_skip="first_conv",
  first="conv_first",
  block="body.{block}.rdb{dense}.conv{conv}",
  trunk="conv_body",
  up="conv_up{up}",
  hr="conv_hr",
  last="conv_last",
)
ALL = (SRFLOW, ESRGAN, ESRGAN_OLD, BASICSR)


def recognise_names(names: Iterable[str]) -> RRDBNames:
  """Says how a file with tensors of these names names its RRDB.

  Raises:
    InputError: it holds none, or more than one.
  """
  names = list(names)
  matching = [candidate for candidate in ALL if candidate.num_blocks(names)]
  if len(matching) != 1:
    what = " and ".join(f"one in {candidate.label}'s names" for candidate in matching)
    examples = ", ".join(names[:3]) or "none at all"
    raise InputError(
      f"holds {what}" if matching else f"no RRDB that is known by its names: {examples}"
    )
  return matching[0]
