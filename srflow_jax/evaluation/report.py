"""Tables of an evaluation: Markdown and CSV for people, JSON with everything for programs."""

import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srflow_jax.evaluation.calibration import Calibration, pooled
from srflow_jax.evaluation.evaluator import Scores
from srflow_jax.files import write_whole

# Columns of the published tables, with SSIM and nll: heading, value, how it is written.
_COLUMNS = (
  ("time", "time", "{:.2f}s"),
  ("LR-PSNR", "lr_psnr", "{:.2f}"),
  ("PSNR", "psnr", "{:.2f}"),
  ("SSIM", "ssim", "{:.4f}"),
  ("PSNR-Y", "psnr_y", "{:.2f}"),
  ("SSIM-Y", "ssim_y", "{:.4f}"),
  ("LPIPS mean", "lpips_mean", "{:.3f}"),
  ("global", "lpips_global", "{:.3f}"),
  ("local", "lpips_local", "{:.3f}"),
  ("diversity", "diversity", "{:.2f}"),
  ("nll", "nll", "{:.3f}"),
  ("LPIPS-VGG", "lpips_vgg", "{:.3f}"),  # where it was asked for
)


@dataclasses.dataclass(frozen=True)
class Row:
  """The scores of one system on one image.

  Attributes:
    image: The image's name.
    system: The system's name.
    size: Height and width of SR.
    scores: What was measured.
  """

  image: str
  system: str
  size: tuple[int, int]
  scores: Scores


def values(scores: Scores) -> dict[str, float | None]:
  """Sums up an image's scores: means over samples unless the name says otherwise.

  Args:
    scores: The scores.

  Returns:
    By name, in the order of the CSV's columns; None for what was not measured. `time` is that of
    one sample with its context, in seconds.
  """
  lpips = scores.lpips
  return {
    "time": scores.context_seconds + scores.sample_seconds,
    "context_seconds": scores.context_seconds,
    "sample_seconds": scores.sample_seconds,
    **_spread("lr_psnr", scores.lr_psnr),
    **_spread("psnr", scores.psnr),
    **_spread("ssim", scores.ssim),
    **_spread("psnr_y", scores.psnr_y),
    **_spread("ssim_y", scores.ssim_y),
    "lpips_mean": lpips.mean if lpips else None,
    "lpips_worst": max(lpips.per_sample) if lpips else None,
    "lpips_global": lpips.global_best if lpips else None,
    "lpips_local": lpips.local_best if lpips else None,
    "diversity": lpips.diversity if lpips else None,
    **(_of_vgg(scores.lpips_vgg) if scores.lpips_vgg else {}),
    **(_of_posterior(scores.calibration) if scores.calibration else {}),
    "nll": scores.nll,
    "bits_per_dim": scores.bits_per_dim,
    **{f"nll_log_det_{i}": part for i, part in enumerate(scores.nll_log_dets, start=1)},
    **{f"nll_latent_{i}": part for i, part in enumerate(scores.nll_latents, start=1)},
    "round_trip_error": scores.round_trip_error,
    "largest_inverse_factor": scores.largest_inverse_factor,
    "largest_map_factor": scores.largest_map_factor,
    "not_finite": sum(scores.not_finite),
    "outside": sum(scores.outside),
  }


_COUNTS = ("not_finite", "outside")  # of values, in all samples; they have no average


def _spread(name: str, per_sample: Sequence[float] | None) -> dict[str, float | None]:
  """Mean, best and worst of a measure that is better when it is larger."""
  measured = bool(per_sample)
  return {
    name: float(np.mean(per_sample)) if measured else None,
    f"{name}_best": max(per_sample) if measured else None,
    f"{name}_worst": min(per_sample) if measured else None,
  }


def _of_vgg(per_sample: Sequence[float]) -> dict[str, float]:
  best, worst = min(per_sample), max(per_sample)
  mean = float(np.mean(per_sample))
  return {"lpips_vgg": mean, "lpips_vgg_best": best, "lpips_vgg_worst": worst}


def _of_posterior(measured: Calibration) -> dict[str, float]:
  return {"energy_score": measured.energy_score, "psnr_of_mean": measured.psnr_of_mean}


def averages(rows: Sequence[Row]) -> dict[str, float | None]:
  """Averages one system's values over images.

  Args:
    rows: One for each image, at least one.

  Returns:
    As `values`, without the counts; None where a value was not measured.
  """
  return _means([values(row.scores) for row in rows])


def _means(table: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
  return {
    name: None
    if any(line[name] is None for line in table)
    else float(np.mean([line[name] for line in table]))
    for name in table[0]
    if name not in _COUNTS
  }


def curves(rows: Sequence[Row]) -> dict[str, list[float]]:
  """Averages one system's LPIPS curves over images.

  Args:
    rows: One a image, at least one.

  Returns:
    `global`, `local` and `diversity` of the first 1, 2, ... samples; empty where not measured.
  """
  if rows[0].scores.lpips is None:
    return {}
  own = [row.scores.lpips.curves() for row in rows]
  return {name: np.mean([curve[name] for curve in own], 0).tolist() for name in own[0]}


def table_cells(
  scale: int, params: Mapping[str, int | None], rows: Sequence[Row]
) -> list[list[str]]:
  """Formats the averages in the columns of the published tables.

  Args:
    scale: By how much the systems enlarge.
    params: Each system's number of parameters, in the table's order.
    rows: The scores of all systems on all images.

  Returns:
    Lines of cells, the heading first; '-' for what was not measured.
  """
  columns = [column for column in _COLUMNS if any(column[1] in values(row.scores) for row in rows)]
  lines = [[f"x{scale}", "Params", *(heading for heading, _, _ in columns)]]
  for system, count in params.items():
    means = averages([row for row in rows if row.system == system])
    cells = ["-" if means[key] is None else form.format(means[key]) for _, key, form in columns]
    lines.append([system, human_count(count), *cells])
  return lines


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
  """Formats `table_cells` as Markdown with aligned columns."""
  cells = [[printable(cell).replace("|", r"\|") for cell in line] for line in cells]
  widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
  lines = [cells[0], ["-" * width for width in widths], *cells[1:]]
  rows_of_text = (
    " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
    for line in lines
  )
  return "".join(f"| {text} |\n" for text in rows_of_text)


def csv_table(rows: Sequence[Row]) -> str:
  """Formats one line for each image and system.

  Args:
    rows: The scores.

  Returns:
    CSV with a heading; empty for what was not measured.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  # A flow's parts are columns of their own, which others leave empty.
  names = list(dict.fromkeys(name for row in rows for name in values(row.scores)))
  writer.writerow(["image", "system", "height", "width", *names])
  for row in rows:
    numbers = values(row.scores)
    writer.writerow([row.image, row.system, *row.size, *(numbers.get(name) for name in names)])
  return text.getvalue()


def summary(
  about: Mapping[str, Any], params: Mapping[str, int | None], rows: Sequence[Row]
) -> dict[str, Any]:
  """Collects all that was measured.

  Args:
    about: How the evaluation was made; becomes the summary's first entries.
    params: Each system's number of parameters.
    rows: The scores.

  Returns:
    `about`, then for each system the averages and each image's scores, sample by sample.
  """
  systems = {}
  for system, count in params.items():
    own = [row for row in rows if row.system == system]
    systems[system] = {
      "params": count,
      "averages": averages(own),
      "curves": curves(own),
      "calibration": _calibration(own),
      "other_uint8": _other(own),
      "images": {
        row.image: {
          "height": row.size[0],
          "width": row.size[1],
          **values(row.scores),
          "per_sample": _per_sample(row.scores),
          "curves": row.scores.lpips.curves() if row.scores.lpips else {},
          "other_uint8": _other([row]),
        }
        for row in own
      },
    }
  return {**about, "systems": systems}


def strict_json(content: Mapping[str, Any]) -> str:
  """Writes strict JSON: infinities and NaN become the strings that Python's `float` reads."""
  return json.dumps(_strict(content), indent=2, allow_nan=False) + "\n"


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file of the report, whole or not at all; `InputError` if it cannot be written.

  Bytes of a name that are not UTF-8 are written as escapes.
  """
  write_whole(path, text.encode("utf-8", "backslashreplace"))


def printable(text: str) -> str:
  """A name, which may hold any bytes, as one line that can be printed and encoded."""
  return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_OF_PIXELS = ("lr_psnr", "psnr", "ssim", "lpips", "diversity")


def _calibration(rows: Sequence[Row]) -> dict[str, Any]:
  """The calibration over images; empty where there is none."""
  measured = [row.scores.calibration for row in rows if row.scores.calibration]
  return pooled(measured).to_dict() if len(measured) == len(rows) else {}


def _other(rows: Sequence[Row]) -> dict[str, float | None]:
  """Averages of the samples made into 8 bits the other way; empty if nothing was measured."""
  if rows[0].scores.other_uint8 is None:
    return {}
  means = _means([values(row.scores.other_uint8) for row in rows])
  return {name: value for name, value in means.items() if name.startswith(_OF_PIXELS)}


def _per_sample(scores: Scores) -> dict[str, tuple[float, ...]]:
  counts = {name: getattr(scores, name) for name in _COUNTS}
  if scores.lpips is None:
    return counts
  return counts | {
    "lr_psnr": scores.lr_psnr,
    "psnr": scores.psnr,
    "ssim": scores.ssim,
    "psnr_y": scores.psnr_y,
    "ssim_y": scores.ssim_y,
    "lpips": scores.lpips.per_sample,
    **({"lpips_vgg": scores.lpips_vgg} if scores.lpips_vgg else {}),
  }


def _strict(content: Any) -> Any:
  if isinstance(content, Mapping):
    return {str(key): _strict(value) for key, value in content.items()}
  if isinstance(content, list | tuple):
    return [_strict(value) for value in content]
  if isinstance(content, float) and not math.isfinite(content):
    return str(content)
  return content


def human_count(count: int | None) -> str:
  """A number of parameters, in thousands or millions; '-' for None."""
  if count is None:
    return "-"
  return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"


def human_seconds(seconds: float | None) -> str:
  """A time in hours, minutes or seconds; '-' for None."""
  if seconds is None:
    return "-"
  if seconds < 60:
    return f"{seconds:.2g}s"
  return f"{seconds / 60:.1f}min" if seconds < 3600 else f"{seconds / 3600:.1f}h"
