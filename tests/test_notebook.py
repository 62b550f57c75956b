"""The notebook runs from its first cell to its last, and prints what its text says."""

import json
import pathlib
import re

import matplotlib
import matplotlib.pyplot as plt
import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "docs/photograph.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(capsys):
  matplotlib.use("agg")
  cells = json.loads(NOTEBOOK.read_text())["cells"]
  names = {}
  for cell in cells:
    if cell["cell_type"] == "code":
      exec("".join(cell["source"]), names)
  plt.close("all")
  printed = capsys.readouterr().out
  errors = re.search(r"samples: (.*) grey levels; bicubic: (.*)\n", printed)
  assert float(errors.group(1)) < float(errors.group(2))
  assert "largest difference after the way back: 0 grey levels" in printed
  nll = {
    name.strip(): float(value)
    for name, value in re.findall(r"^(.*) nll +(\S+) bits", printed, re.M)
  }
  assert nll["sample 0"] < nll["HR, mirrored"] and nll["HR"] < nll["HR, mirrored"]
