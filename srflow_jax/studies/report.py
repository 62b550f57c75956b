"""The report of a study. All of it but the pictures is a function of `runs.csv` and `study.json`.

STUDY/report.html   one page: tables, plots, sheets
STUDY/table.md      the tables
STUDY/table.tex     the same in LaTeX, the first laid out as the published ones
STUDY/plots/        the plots of the page
STUDY/sheets/       images, with a column for each variant
"""

import html
import json
import math
import pathlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from srflow_jax.evaluation import page
from srflow_jax.evaluation.latex import latex_table
from srflow_jax.evaluation.report import markdown_table, printable
from srflow_jax.evaluation.sheets import Sheet
from srflow_jax.files import whole_file, write_whole
from srflow_jax.images import read_written_png, write_png
from srflow_jax.studies import tables
from srflow_jax.studies.outcome import StudyResults
from srflow_jax.studies.planning import run_name
from srflow_jax.studies.plots import plots
from srflow_jax.studies.record import read_record
from srflow_jax.studies.results import read_rows
from srflow_jax.studies.stages import HR
from srflow_jax.studies.study import BICUBIC

_MARKS = {"bold": "**", "italic": "*"}


def write_report(folder: pathlib.Path) -> str:
  """Writes a study's report from its folder.

  Args:
    folder: with `study.json` and `runs.csv`; pictures of samples are taken from its runs.

  Returns:
    The tables, as Markdown.

  Raises:
    InputError: a file is missing or damaged, or the folder cannot be written.
  """
  record = read_record(folder)
  rows = read_rows(folder / "runs.csv")
  outcome = StudyResults(rows, record)
  shown = _tables(outcome, record)
  if outcome.has_grid:
    common = StudyResults(rows, record, common_rate=True)
    rate = next(iter(common.rates.values()), math.nan)
    title = f"Results at the common learning rate of {rate:g}"
    shown.append(tables.results(common, common.comparisons(), record, title))
  text = _markdown(shown, record)
  figures = plots(outcome)
  for heading, png in figures.items():
    with whole_file(folder / "plots" / f"{_file_name(heading)}.png", make_folder=True) as plot:
      plot.write(png)
  sheets = _sheets(folder, outcome, record)
  write_whole(folder / "table.md", text)
  write_whole(folder / "table.tex", "\n".join(_latex(table) for table in shown))
  write_whole(folder / "report.html", _page(folder, shown, record, figures, sheets))
  return text


def _file_name(heading: str) -> str:
  """A plot's heading as a file's name: "LPIPS mean against steps" is LPIPS_mean_against_steps."""
  return re.sub(r"\W+", "_", heading)


def _tables(outcome: StudyResults, record: Mapping[str, Any]) -> list[tables.Table]:
  comparisons = outcome.comparisons()
  optional = (
    tables.learning_rates(outcome),
    tables.receptive_fields(outcome),
    tables.degraded(outcome, list(record["evaluation"]["degraded"])),
    tables.failures(outcome),
  )
  return [
    tables.results(outcome, comparisons, record),
    tables.differences(outcome, comparisons),
    *(table for table in optional if table is not None),
  ]


def _markdown(shown: Sequence[tables.Table], record: Mapping[str, Any]) -> str:
  parts = [f"{record['question']}\n\nExpected: {record['expectation']}\n"]
  for table in shown:
    marked = [
      [
        _MARKS.get(table.styles.get((i, j), ""), "")
        + cell
        + _MARKS.get(table.styles.get((i, j), ""), "")
        for j, cell in enumerate(line)
      ]
      for i, line in enumerate(table.cells)
    ]
    parts.append(f"## {table.title}\n\n{markdown_table(marked)}\n{printable(table.note)}\n")
  return "\n".join(parts)


def _latex(table: tables.Table) -> str:
  """A table in LaTeX, with its note as a comment."""
  note = "".join(f"% {line}\n" for line in textwrap.wrap(printable(table.note), 98))
  return f"% {table.title}\n{note}{latex_table(table.cells, table.styles)}"


def _page(
  folder: pathlib.Path,
  shown: Sequence[tables.Table],
  record: Mapping[str, Any],
  figures: Mapping[str, bytes],
  sheets: Mapping[str, pathlib.Path],
) -> str:
  title = f"Study: {folder.resolve().name}"
  parts = [
    f"<h1>{html.escape(title)}</h1>",
    f"<p>{html.escape(record['question'])}</p>",
    f"<p>Expected: {html.escape(record['expectation'])}</p>",
  ]
  for table in shown:
    parts += [
      f"<h2>{html.escape(table.title)}</h2>",
      page.table(table.cells, table.styles),
      f"<p>{html.escape(table.note)}</p>",
    ]
  drawn = (page.figure(heading, "image/png", png) for heading, png in figures.items())
  parts += ["<h2>Plots</h2>", '<div class="plots">', *drawn, "</div>"]
  if sheets:
    parts.append("<h2>Images</h2>")
    for name, path in sheets.items():
      parts.append(page.figure(name, "image/jpeg", page.jpeg(path), "sheet"))
  parts.append("<h2>Configurations</h2>")
  for name, config in record["variants"].items():
    text = html.escape(json.dumps(config, indent=2))
    parts.append(f"<details><summary>{html.escape(name)}</summary><pre>{text}</pre></details>")
  return page.document(title, parts)


def _sheets(
  folder: pathlib.Path, outcome: StudyResults, record: Mapping[str, Any]
) -> dict[str, pathlib.Path]:
  """Draws the chosen images: bicubic, a sample of each variant (its first seed), and HR."""
  made = {}
  for hr in sorted((folder / HR).rglob("*.png")):
    name = hr.relative_to(folder / HR).with_suffix("").as_posix()
    sheet, first = Sheet(), True
    for variant in outcome.variants:
      rate = outcome.rates.get(variant) if record["learning_rates"] else None
      runs = [run_name(variant, seed, rate) for seed in record["seeds"]]
      of_runs = {run: folder / "runs" / run / "evaluation" / "samples" for run in runs}
      pictures = {run: samples / run / f"{name}_00.png" for run, samples in of_runs.items()}
      run = next((run for run, picture in pictures.items() if picture.exists()), None)
      if run is None:  # all runs failed or are not done yet
        continue
      samples, picture = of_runs[run], pictures[run]
      if first:
        sheet.add(BICUBIC, read_written_png(samples / BICUBIC / f"{name}_00.png"))
        first = False
      sheet.add(variant, read_written_png(picture))
    if first:
      continue
    sheet.add("HR", read_written_png(hr))
    made[name] = folder / "sheets" / f"{name}.png"
    write_png(made[name], sheet.draw(len(outcome.variants) + 2))
  return made
