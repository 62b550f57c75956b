"""The table of an evaluation in LaTeX, laid out as the published ones."""

from collections.abc import Mapping, Sequence

from srflow_jax.evaluation.report import printable

_ESCAPED = {character: f"\\{character}" for character in "&%$#_{}"} | {
  "\\": r"\textbackslash{}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  "|": r"\textbar{}",
  "±": r"$\pm$",
  "→": r"$\to$",
  "<": r"\textless{}",
  ">": r"\textgreater{}",
}
_LPIPS = ("LPIPS mean", "global", "local")  # columns that stand together under one heading


_STYLES = {"bold": r"\textbf", "italic": r"\textit"}


def latex_table(cells: Sequence[Sequence[str]], styles: Mapping[tuple[int, int], str] = {}) -> str:
  """Formats a table in LaTeX; it needs the package booktabs.

  Args:
    cells: Of `report.table_cells`.
    styles: "bold" or "italic", by line and column.

  Returns:
    A `tabular`, with LPIPS over its three columns if there are such.
  """
  heading, above = list(cells[0]), []
  if _LPIPS[0] in heading:
    first = heading.index(_LPIPS[0])
    over = "& " * first + rf"\multicolumn{{{len(_LPIPS)}}}{{c}}{{LPIPS}}"
    over += " &" * (len(heading) - first - len(_LPIPS))
    above = [over + r" \\", rf"\cmidrule(lr){{{first + 1}-{first + len(_LPIPS)}}}"]
    heading[first] = "mean"
  styled = [
    [_styled(cell, styles.get((i, j))) for j, cell in enumerate(line)]
    for i, line in enumerate((heading, *cells[1:]))
  ]
  lines = [" & ".join(line) + r" \\" for line in styled]
  return "\n".join(
    [
      r"% \usepackage{booktabs}",
      rf"\begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}",
      r"\toprule",
      *above,
      lines[0],
      r"\midrule",
      *lines[1:],
      r"\bottomrule",
      r"\end{tabular}",
      "",
    ]
  )


def _styled(cell: str, style: str | None) -> str:
  escaped = "".join(_ESCAPED.get(c, c) for c in printable(cell))
  return f"{_STYLES[style]}{{{escaped}}}" if style else escaped
