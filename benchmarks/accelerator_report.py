"""What `benchmarks.accelerator` found, as Markdown."""

from typing import Any


def table(found: dict[str, Any]) -> str:
  """A section for each item, and one that sets ours beside the baseline's.

  Args:
    found: "command", "date", and "items": by name, "status", "error", "seconds" and "rows".
  """
  lines = ["# An accelerator, measured", "", f"{found['date']}: `{found['command']}`", ""]
  for name, item in found["items"].items():
    lines += [f"## {name}: {item['status']}, {item['seconds']:.0f} s", ""]
    if item["error"]:
      lines += [f"`{item['error']}`", ""]
    lines += _rows(item["rows"])
  if pairs := _pairs(found["items"]):
    lines += ["## Seconds of PyTorch over ours: above 1 ours is faster", "", *_rows(pairs)]
  return "\n".join(lines)


def _rows(rows: list[dict[str, Any]]) -> list[str]:
  """A table whose columns are those of all rows, in the order in which they come up."""
  if not rows:
    return []
  columns = list(dict.fromkeys(column for row in rows for column in row))
  lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
  for row in rows:
    lines.append(f"| {' | '.join(_cell(row.get(column)) for column in columns)} |")
  return [*lines, ""]


def _cell(value: Any) -> str:
  if value is None:
    return "-"
  text = f"{value:.4g}" if isinstance(value, float) else str(value)
  return " ".join(text.replace("|", "/").split())


def _pairs(items: dict[str, Any]) -> list[dict[str, Any]]:
  ours = {
    (row["job"], row["type"]): row["s"]
    for name in ("speed",)
    for row in items.get(name, {"rows": []})["rows"]
    if row.get("s") and row.get("model") == "x4_da"
  }
  pairs = []
  for row in items.get("baseline", {"rows": []})["rows"]:
    key = row["job"], row["type"]
    if row.get("s") and key in ours:
      pairs.append(
        {"job": key[0], "type": key[1], "PyTorch": row["mode"], "ours, s": ours[key]}
        | {"PyTorch, s": row["s"], "ratio": row["s"] / ours[key]}
      )
  return pairs
