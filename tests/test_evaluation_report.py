"""Tables, the page, its plots, and the LaTeX table."""

import dataclasses
import json
import math
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from srflow_jax import evaluation, images
from srflow_jax.evaluation import metrics, report
from srflow_jax.evaluation.calibration import calibration
from srflow_jax.evaluation.calibration_report import calibration_section
from srflow_jax.evaluation.latex import latex_table
from srflow_jax.evaluation.page import html_page
from srflow_jax.evaluation.plots import plots


def scores(level, count):
  maps = np.random.default_rng(0).uniform(level, level + 0.1, (count, 4, 4))
  return evaluation.Scores(
    1.0, 0.5, (40.0,) * count, (30 - level,) * count, (0.5,) * count, metrics.scores_of_maps(maps)
  )


def summary_of(systems):
  """A summary of systems {name: (temperature or None, number of samples)} on one image."""
  rows = [
    report.Row("a", name, (8, 8), scores(0.1 * i, count))
    for i, (name, (_, count)) in enumerate(systems.items())
  ]
  models = {
    name: {"workdir": "runs/<mine>", "temperature": temperature}
    for name, (temperature, _) in systems.items()
    if temperature is not None
  }
  about = {"scale": 4, "command": "python evaluate.py '<x>'", "models": models}
  about["configs"] = {"runs/<mine>": {"seed": 1}}
  about["parameter_tables"] = {"runs/<mine>": "| flow/kernel | (3, 3) |"}
  params = dict.fromkeys(systems, 1000)
  return report.summary(about, params, rows), report.table_cells(4, params, rows)


def test_latex_has_the_published_layout():
  _, cells = summary_of({"bicubic": (None, 1), "a_b & 50%": (0.9, 2)})
  lines = latex_table(cells).splitlines()
  assert lines[1] == r"\begin{tabular}{lrrrrrrrrrrrr}"
  assert r"\multicolumn{3}{c}{LPIPS}" in lines[3] and r"\cmidrule(lr){9-11}" in lines
  assert next(line for line in lines if line.startswith("bicubic & 1k & 1.50s & 40.00"))
  assert next(line for line in lines if line.startswith(r"a\_b \& 50\% & "))
  rows = [line for line in lines if line.endswith(r"\\")]
  # Every line has thirteen columns, the first with three of them in one.
  assert [len(re.findall(r"(?<!\\)&", line)) for line in rows] == [10, 12, 12, 12]


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(None, "-"), (0.0096, "0.0096s"), (2.59, "2.6s"), (90, "1.5min"), (3600, "1.0h")],
)
def test_times_have_the_unit_of_their_size(seconds, text):
  assert report.human_seconds(seconds) == text


def test_plots_are_of_what_was_measured():
  one, _ = summary_of({"bicubic": (None, 1), "m": (0.9, 1)})
  assert list(plots(one)) == ["LPIPS against PSNR"]
  several, _ = summary_of({"bicubic": (None, 1), "m t=0": (0, 3), "m t=1": (1, 3)})
  assert [title.split()[0] for title in plots(several)] == [
    "LPIPS",
    "Diversity",
    "LPIPS",
    "LPIPS",
    "Diversity",
  ]
  alone = {"systems": {"m": {"averages": {"psnr": None}}}, "models": {}}
  assert plots(alone) == {}


@pytest.fixture
def page(tmp_path):
  summary, cells = summary_of({"bicubic": (None, 1), "m t=0": (0, 3), "m t=1": (1, 3)})
  sheet = tmp_path / "sheet.png"
  images.write_png(sheet, np.zeros((40, 60, 3), np.uint8))
  path = tmp_path / "report.html"
  path.write_text(html_page(summary, cells, "a note & more", plots(summary), {"<a>": sheet}))
  return path


def test_page_is_self_contained(page):
  text = page.read_text()
  sources = re.findall(r'(?:src|href)="([^"]*)"', text)
  assert len(sources) == 6 and all(source.startswith("data:image/") for source in sources)
  assert "python evaluate.py &#x27;&lt;x&gt;&#x27;" in text and "a note &amp; more" in text
  assert "flow/kernel | (3, 3)" in text
  assert "&lt;a&gt;" in text and "<a>" not in text and '"seed": 1' not in text.split("<pre>")[0]


def test_calibration_is_a_section_with_tables_and_plots(page):
  rng = np.random.default_rng(0)
  samples, hr = (rng.integers(0, 256, (*count, 40, 40, 3), dtype=np.uint8) for count in ((4,), ()))
  measured = dataclasses.replace(scores(0.1, 4), calibration=calibration(samples, hr, 4))
  summary, _ = summary_of({"bicubic": (None, 1), "m": (0.9, 4)})
  assert calibration_section(summary) is None
  rows = [report.Row("a", "m", (40, 40), measured), report.Row("b", "m", (40, 40), measured)]
  own = report.summary({}, {"m": 1}, rows)["systems"]["m"]
  assert own["averages"]["energy_score"] == measured.calibration.energy_score
  summary["systems"]["m"] = own
  section = calibration_section(json.loads(report.strict_json(summary)))
  by_mean, by_band = section.tables
  assert [line[0] for line in by_mean] == ["", "bicubic", "m"] and by_mean[1][1] == "-"
  assert [line[1] for line in by_band] == [
    *("band", "all", "0 to 0.0625", "0.0625 to 0.125", "0.125 to 0.25", "0.25 up")
  ]
  assert by_band[1][-1] == "calibrated" and len(section.plots) == 3
  text = html_page(summary, [["x4"]], "", {}, {}, [section])
  assert "<h2>Calibration</h2>" in text and text.count("data:image/png") == 3


def test_page_opens_in_a_browser_and_shows_its_pictures(page, tmp_path):
  """A script, added for the test, replaces the page by the widths of its pictures."""
  names = ("chromium", "chromium-browser", "google-chrome")
  browser = next(filter(None, map(shutil.which, names)), None)
  if browser is None:
    pytest.skip("no chromium")
  script = (
    "<script>addEventListener('load', () => { document.title = "
    "Array.from(document.images, i => i.complete ? i.naturalWidth : 0).join(' ') })</script>"
  )
  page.write_text(page.read_text().replace("</body>", f"{script}</body>"))
  command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
  command += [f"--user-data-dir={tmp_path / 'profile'}", pathlib.Path(page).as_uri()]
  dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
  widths = re.search(r"<title>([\d ]*)</title>", dom)
  assert widths and len(widths[1].split()) == 6 and min(map(int, widths[1].split())) >= 60


def fake_scores(**changes):
  scores = {
    "context_seconds": 1.0,
    "sample_seconds": 0.5,
    "lr_psnr": (40.0, 50.0),
    "psnr": (20.0, 30.0),
    "ssim": (0.5, 0.75),
    "lpips": metrics.LpipsScores((0.2, 0.4), 0.3, 0.2, 0.1, 50.0),
    "nll": -7.25,
    "bits_per_dim": 5.5,
  }
  return evaluation.Scores(**{**scores, **changes})


def test_averages_are_of_images_and_diversity_is_not_a_ratio_of_averages():
  other = metrics.LpipsScores((0.8, 0.8), 0.8, 0.8, 0.8, 0.0)
  rows = [
    report.Row("a", "s", (8, 8), fake_scores()),
    report.Row("b", "s", (8, 8), fake_scores(lpips=other, psnr=(40.0, 50.0))),
  ]
  means = report.averages(rows)
  assert means["time"] == 1.5 and means["lr_psnr"] == 45 and means["lr_psnr_worst"] == 40
  assert means["psnr"] == 35 and means["diversity"] == 25
  assert means["lpips_global"] == 0.5 and means["lpips_local"] == pytest.approx(0.45)


def test_markdown_has_the_published_columns():
  rows = [
    report.Row("a", "bicubic", (8, 8), fake_scores(nll=None)),
    report.Row("a", "mine", (8, 8), fake_scores()),
  ]
  table = report.markdown_table(report.table_cells(4, {"bicubic": None, "mine": 8_414_064}, rows))
  lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
  heading = "x4 Params time LR-PSNR PSNR SSIM PSNR-Y SSIM-Y LPIPS~mean global local diversity nll"
  assert lines[0] == [name.replace("~", " ") for name in heading.split()]
  shared = ["1.50s", "45.00", "25.00", "0.6250", "-", "-", "0.300", "0.200", "0.100", "50.00"]
  assert lines[2] == ["bicubic", "-", *shared, "-"]
  assert lines[3] == ["mine", "8.4M", *shared, "-7.250"]
  assert len({len(line) for line in table.splitlines()}) == 1


def test_json_is_strict_about_infinity():
  rows = [report.Row("a", "s", (8, 8), fake_scores(lr_psnr=(math.inf, 50.0)))]
  text = report.strict_json(report.summary({"seed": 1}, {"s": None}, rows))
  content = json.loads(text, parse_constant=pytest.fail)
  assert content["seed"] == 1
  image = content["systems"]["s"]["images"]["a"]
  assert image["per_sample"]["lr_psnr"] == ["inf", 50.0] and image["lr_psnr_worst"] == 50.0
