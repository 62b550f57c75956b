"""The report as one HTML page that needs no other file."""

import base64
import dataclasses
import html
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

_JPEG_QUALITY = 88  # of sheets in the page; the files beside it are PNG

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .6rem; text-align: right }
th, td { white-space: nowrap }
th:first-child, td:first-child { text-align: left }
img { max-width: 100%; height: auto }
pre { background: #f4f4f4; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere }
details pre { white-space: pre; overflow-x: auto }
figure { margin: 1.5rem 0 }
.table, .sheet { overflow-x: auto }
.sheet img { max-width: none }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 0 1rem }
"""


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the page.

  Attributes:
    title: Its heading.
    text: What stands under that.
    tables: Lines of cells, the heading first.
    plots: PNG files by title.
  """

  title: str
  text: str
  tables: Sequence[Sequence[Sequence[str]]]
  plots: Mapping[str, bytes]


def html_page(
  summary: Mapping[str, Any],
  cells: Sequence[Sequence[str]],
  note: str,
  plots: Mapping[str, bytes],
  sheets: Mapping[str, pathlib.Path],
  sections: Sequence[Section] = (),
) -> str:
  """Makes the page.

  Args:
    summary: As `report.summary` makes it.
    cells: The table, its heading first.
    note: What stands under it.
    plots: PNG files by title.
    sheets: Comparison sheets by image.
    sections: Parts between the plots and the images.

  Returns:
    HTML with all pictures inside.
  """
  title = f"Super-resolution x{summary['scale']}: " + ", ".join(
    dict.fromkeys(model["workdir"] for model in summary["models"].values())
  )
  parts = [
    f"<h1>{html.escape(title)}</h1>",
    table(cells),
    f"<p>{html.escape(note)}</p>",
    "<h2>Command</h2>",
    f"<pre>{html.escape(summary['command'])}</pre>",
  ]
  if plots:
    parts += ["<h2>Plots</h2>", *_figures(plots)]
  for section in sections:
    parts += [f"<h2>{html.escape(section.title)}</h2>", f"<p>{html.escape(section.text)}</p>"]
    parts += [*map(table, section.tables), *_figures(section.plots)]
  parts.append("<h2>Images</h2>")
  for name, path in sheets.items():  # a wide one scrolls: shrunk, it would show nothing
    parts.append(figure(name, "image/jpeg", jpeg(path), "sheet"))
  parts.append("<h2>Configuration</h2>")
  for workdir, config in summary["configs"].items():
    parts.append(_folded(workdir, json.dumps(config, indent=2)))
  parts.append("<h2>Parameters</h2>")
  for workdir, text in summary["parameter_tables"].items():
    parts.append(_folded(workdir, text))
  return document(title, parts)


def _folded(title: str, text: str) -> str:
  return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"


def document(title: str, parts: Sequence[str]) -> str:
  """A page of HTML with a title, made of parts of its body."""
  return (
    f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta name="viewport" content="width=device-width">\n'
    f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    + "\n".join(parts)
    + "\n</body>\n</html>\n"
  )


def table(cells: Sequence[Sequence[str]], styles: Mapping[tuple[int, int], str] = {}) -> str:
  """A table in HTML, its heading first; `styles` has "bold" or "italic", by line and column."""
  lines = []
  for i, line in enumerate(cells):
    tag = "td" if i else "th"
    marked = (_styled(html.escape(cell), styles.get((i, j))) for j, cell in enumerate(line))
    lines.append("".join(f"<{tag}>{cell}</{tag}>" for cell in marked))
  rows = "\n".join(f"<tr>{line}</tr>" for line in lines)
  return f'<div class="table"><table>\n{rows}\n</table></div>'


def _styled(text: str, style: str | None) -> str:
  tag = {"bold": "b", "italic": "i"}.get(style or "")
  return f"<{tag}>{text}</{tag}>" if tag else text


def _figures(plots: Mapping[str, bytes]) -> list[str]:
  figures = (figure(heading, "image/png", png) for heading, png in plots.items())
  return ['<div class="plots">', *figures, "</div>"]


def figure(caption: str, kind: str, content: bytes, style: str = "plot") -> str:
  """A picture with a caption, all in the page; `kind` is its media type."""
  data = base64.b64encode(content).decode()
  caption = html.escape(caption)
  return (
    f'<figure><figcaption>{caption}</figcaption><div class="{style}"><img alt="{caption}" '
    f'src="data:{kind};base64,{data}"></div></figure>'
  )


def jpeg(path: pathlib.Path) -> bytes:
  """A picture as JPEG, with the profile of its colours."""
  file = io.BytesIO()
  with Image.open(path) as picture:
    profile = picture.info.get("icc_profile")
    picture.convert("RGB").save(file, "JPEG", quality=_JPEG_QUALITY, icc_profile=profile)
  return file.getvalue()
