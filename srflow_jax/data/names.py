"""Which LR image belongs to which HR image, by the names that published sets use."""

from collections.abc import Sequence
from typing import TypeVar

from srflow_jax.errors import InputError

File = TypeVar("File")


def _hr_marks(scale: int) -> tuple[str, ...]:
  """What HR names may end in; the empty ending comes first."""
  return ("", "_HR", f"_HR_x{scale}", f"_HRx{scale}", f"_SRF_{scale}_HR")


def _lr_marks(scale: int) -> tuple[str, ...]:
  """What may follow the HR name, without the HR name's own mark, in the name of its LR image."""
  return (
    "",
    f"x{scale}",
    f"_x{scale}",
    "_LR",
    f"_LR_x{scale}",
    f"_LRx{scale}",
    f"_LRBI_x{scale}",
    f"_SRF_{scale}_LR",
  )


def match_names(
  hr: Sequence[tuple[str, File]], lr: Sequence[tuple[str, File]], scale: int
) -> list[File]:
  """LR files in the order of `hr`.

  Names are equal, or differ as in published sets: `NAME` and `NAMEx4` (DIV2K), `NAME_x4`,
  `NAME_LR`, `NAME_LRBI_x4`; `NAME_HR_x4` and `NAME_LRBI_x4`; `NAME_SRF_4_HR` and `NAME_SRF_4_LR`,
  and the like. One such rule that fits all files goes before others, equality first; else each
  file needs exactly one partner by any of them.

  Args:
    hr: names and files of the HR images; a file is a path, or prints as one.
    lr: names and files of the LR images.
    scale: HR pixels per LR pixel, the number in the names.

  Raises:
    InputError: an image has no partner, or could have two; it names the files.
  """
  files = dict(lr)
  for hr_mark in _hr_marks(scale):
    if all(name.endswith(hr_mark) for name, _ in hr):
      for lr_mark in _lr_marks(scale):
        partners = [name.removesuffix(hr_mark) + lr_mark for name, _ in hr]
        if len(partners) == len(files) and files.keys() == set(partners):
          return [files[partner] for partner in partners]
  names = {name for name, _ in hr}
  matched = []
  for name, file in hr:
    looked_for = _candidates(name, scale)
    # Another image of exactly that name has the better claim to it.
    partners = [n for n in looked_for if n in files and (n == name or n not in names)]
    if not partners:
      raise InputError(f"{file}: no LR image of that name; looked for {', '.join(looked_for)}")
    if len(partners) > 1:
      raise InputError(
        f"{file}: two LR images could be its own, {files[partners[0]]} and {files[partners[1]]}"
      )
    matched.append(partners[0])
  for name, file in lr:
    if name not in matched:
      raise InputError(f"{file}: no HR image of that name")
    if matched.count(name) > 1:
      raise InputError(f"{file}: two HR images of that name")
  return [files[name] for name in matched]


def _candidates(name: str, scale: int) -> list[str]:
  """Names that an HR image's LR image may have."""
  bases = [name.removesuffix(mark) for mark in _hr_marks(scale) if name.endswith(mark)]
  return list(dict.fromkeys(base + mark for base in bases for mark in _lr_marks(scale)))


def own_side(named: Sequence[tuple[str, File]], scale: int, side: str) -> list[tuple[str, File]]:
  """The HR or the LR images of a folder that holds both, told by `_HR` and `_LR` in their names.

  Args:
    named: names and files of all its images.
    scale: HR pixels per LR pixel.
    side: "HR" or "LR".

  Returns:
    The images of that side, or all of them if not both sides are marked so.
  """
  marks = {
    "HR": tuple(mark for mark in _hr_marks(scale) if mark),
    "LR": tuple(mark for mark in _lr_marks(scale) if "_LR" in mark),
  }
  sides = {key: [item for item in named if item[0].endswith(ends)] for key, ends in marks.items()}
  return sides[side] if all(sides.values()) else list(named)
