"""Reports, from rows made by hand: what is averaged, paired, bold, and drawn."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from configs import tiny
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.evaluation.plots import draw_plot
from srflow_jax.images import write_png
from srflow_jax.studies import plots as studies_plots
from srflow_jax.studies import tables
from srflow_jax.studies.outcome import METRICS, StudyResults
from srflow_jax.studies.plots import plots
from srflow_jax.studies.report import write_report
from srflow_jax.studies.results import FAILED, Row, write_rows
from srflow_jax.studies.statistics import t_interval

SEEDS, IMAGES = (0, 1, 2), ("a", "b", "c", "d")


def record(learning_rates=()):
  config = read_config(tiny.get_config()).to_dict()
  return {
    "question": "Is wide better?",
    "expectation": "It is & <by far>.",
    "base_name": "base",
    "seeds": list(SEEDS),
    "learning_rates": list(learning_rates),
    "evaluation": {"num_samples": 5, "temperature": 0.8, "degraded": ["jpeg20"]},
    "variants": {name: config for name in ("base", "wide", "worse")},
  }


def rows_of(variant, rate=1e-3, nll=0.0, selected=0.0, device="cpu", seeds=SEEDS):
  """All rows of a variant's runs: an offset of all nlls and PSNRs, seeds and images apart."""
  rng = np.random.default_rng(0)  # pairs are the same in all variants
  of_images = rng.normal(27, 3, len(IMAGES))
  for seed in seeds:
    row = Row(variant, rate, seed, 9, "", "", 0.0, "abc", device, "digest")

    def of(metric, value, image="", step=9, row=row):
      return dataclasses.replace(row, metric=metric, value=float(value), image=image, step=step)

    yield of("params_flow", 10_000 + 5000 * (variant == "wide"))
    yield of("train_flops", 1e12)
    yield of("train_seconds", 90.0)
    yield of("skipped", 0)
    yield of("receptive_field_1", 25)
    yield of("receptive_field", 25 + 24 * (variant == "wide"))
    for step, value in ((3, 1.0), (9, selected)):
      yield of("validation/nll", value + 0.01 * seed, step=step)
    for number, image in enumerate(IMAGES):
      shift = ("base", "wide", "worse").index(variant)
      noise = 0.01 * ((seed + shift) % 3 - 1)  # over seeds: none
      noise += 0.003 * (number * shift % 4 - 1.5)  # over images: none
      for metric in METRICS:
        yield of(metric.name, of_images[number] + nll + noise, image)
      yield of("time", 0.5, image)
      for name in ("", "jpeg20/"):
        yield of(f"{name}broken_samples", 0.5 * (variant == "worse"), image)
        yield of(f"{name}largest_map_factor", 3.0 + number, image)
      for radius, rise in ((0, 1.0), (1, 0.5), (2, 0.01)):
        yield of(f"rise_lr/{radius}", rise, image)


def study_rows(**settings):
  return [
    *rows_of("base", nll=0.0, **settings),
    *rows_of("wide", nll=-1.0, **settings),
    *rows_of("worse", nll=0.001, **settings),
  ]


def test_a_study_of_encoders_alone_is_done_and_chooses_rates_by_their_own_loss():
  def of_encoders(row):
    if row.metric == "validation/nll":
      return dataclasses.replace(row, metric="validation/l1")
    return None if row.metric in ("nll", "bits_per_dim", "diversity") else row

  rows = [
    row
    for rate, selected in ((1e-3, 0.5), (1e-4, 0.1))
    for row in map(of_encoders, study_rows(rate=rate, selected=selected))
    if row is not None
  ]
  outcome = StudyResults(rows, record(learning_rates=(1e-3, 1e-4)))
  assert outcome.not_done == [] and set(outcome.rates.values()) == {1e-4}
  names = list(shown(tables.results(outcome, outcome.comparisons(), record())))
  assert names == ["base", "wide", "worse"]  # all of whose seeds are there


def shown(table: tables.Table) -> dict[str, dict[str, str]]:
  """A table's cells, by the first of their line and by column."""
  return {line[0]: dict(zip(table.cells[0], line, strict=True)) for line in table.cells[1:]}


def test_the_table_has_means_and_marks_what_is_told_apart():
  outcome = StudyResults(study_rows(), record())
  comparisons = outcome.comparisons()
  table = tables.results(outcome, comparisons, record())
  cells = shown(table)
  assert list(cells) == ["base", "wide", "worse"]
  base = cells["base"]
  assert (base["Params"], base["FLOPs"], base["train time"]) == ("10k", "1.00e+12", "1.5min")
  assert (base["time"], base["skipped"]) == ("0.50s", "0")
  (mean, half), (of_wide, _) = (
    map(float, cells[name]["nll"].split(" ± ")) for name in ("base", "wide")
  )
  assert mean - of_wide == pytest.approx(1, abs=0.02)
  interval = t_interval(list(outcome.of_runs("base", "nll").values()))
  assert half == pytest.approx(interval.high - interval.mean, abs=0.001) and half > 0.01
  assert "Code of commit abc." in table.note and "Not done" not in table.note
  styles = {(table.cells[i][0], table.cells[0][j]): s for (i, j), s in table.styles.items()}
  assert styles["wide", "nll"] == "bold" and styles["wide", "PSNR"] == "italic"
  assert not [name for name, _ in styles if name != "wide"]  # 0.001 is less than can be detected
  found = comparisons["nll"]["wide"]
  assert found.over_seeds.low < -1 + 0.02 and found.over_images.high < -0.9


def test_times_of_several_kinds_of_devices_are_not_compared():
  rows = [*rows_of("base"), *rows_of("wide", device="1 x H100"), *rows_of("worse")]
  outcome = StudyResults(rows, record())
  table = tables.results(outcome, outcome.comparisons(), record())
  assert {(line["train time"], line["time"]) for line in shown(table).values()} == {("-", "-")}
  assert "times are not compared" in table.note
  moved = [row for name in ("base", "wide", "worse") for row in rows_of(name, device="A100 + H100")]
  assert StudyResults(moved, record()).device is None  # all of them were on two kinds


def test_failed_runs_leave_their_pairs():
  rows = [*rows_of("base"), *rows_of("wide", nll=-1.0, seeds=(0, 2))]
  rows.append(Row("wide", 1e-3, 1, 4, "", FAILED, "train: out | of memory", "abc", "cpu", "d"))
  outcome = StudyResults(rows, record())
  comparisons = outcome.comparisons()
  assert comparisons["nll"]["wide"].seeds == 2 and comparisons["nll"]["worse"] is None
  assert shown(tables.failures(outcome))["wide"]["why"] == "train: out | of memory"
  table = tables.results(outcome, comparisons, record())
  cells = shown(table)
  assert cells["worse (0 of 3 seeds)"]["nll"] == "-" and "wide (2 of 3 seeds)" in cells
  missing = ", ".join(f"worse (seed {seed})" for seed in SEEDS)
  assert f"Not done yet: {missing}." in table.note  # the failed one of "wide" is not among them
  assert "nll of worse" in tables.differences(outcome, comparisons).note


def test_what_is_not_finite_is_said():
  rows = study_rows()
  place = next(i for i, r in enumerate(rows) if (r.variant, r.metric) == ("wide", "nll"))
  rows[place] = dataclasses.replace(rows[place], value=float("inf"))
  place = [i for i, r in enumerate(rows) if r.metric == "jpeg20/largest_map_factor"][1]
  rows[place] = dataclasses.replace(rows[place], value=float("nan"))
  outcome = StudyResults(rows, record())
  assert "finite values: nll of wide." in tables.differences(outcome, outcome.comparisons()).note
  worst = shown(tables.degraded(outcome, ["jpeg20"]))
  assert worst["base"]["jpeg20: worst inverse factor"] == "not finite"
  assert worst["wide"]["jpeg20: worst inverse factor"] == "6"


def test_images_that_changed_are_said():
  def bicubic(seed, image, psnr, device="cpu"):
    return Row("bicubic", 1e-3, seed, 0, image, "psnr", psnr, "abc", device, "d")

  same = [bicubic(0, "a", 27.0), bicubic(1, "a", 27.001), bicubic(0, "b", 25.0)]
  outcome = StudyResults([*study_rows(), *same, bicubic(1, "b", 25.0)], record())
  assert "not the same" not in tables.results(outcome, outcome.comparisons(), record()).note
  outcome = StudyResults([*study_rows(), *same, bicubic(1, "b", 25.1)], record())
  note = tables.results(outcome, outcome.comparisons(), record()).note
  assert "images were not the same for all runs: b." in note


def test_a_pause_leaves_the_times_as_they_are():
  rows = study_rows()
  place = next(i for i, r in enumerate(rows) if (r.variant, r.metric) == ("base", "time"))
  rows[place] = dataclasses.replace(rows[place], value=1000.0)
  place = next(i for i, r in enumerate(rows) if (r.variant, r.metric) == ("base", "train_seconds"))
  rows[place] = dataclasses.replace(rows[place], value=9000.0)
  outcome = StudyResults(rows, record())
  base = shown(tables.results(outcome, outcome.comparisons(), record()))["base"]
  assert (base["train time"], base["time"]) == ("1.5min", "0.50s")


def test_another_noise_is_said():
  with_noise = record()
  wide = json.loads(json.dumps(with_noise["variants"]["wide"]))
  wide["data"]["noise"]["std"] = 0.0
  with_noise["variants"]["wide"] = wide
  outcome = StudyResults(study_rows(), with_noise)
  note = tables.results(outcome, outcome.comparisons(), with_noise).note
  assert "and wide trained with another noise than base" in note
  assert "another noise" not in tables.results(outcome, outcome.comparisons(), record()).note


def test_learning_rates_are_chosen_by_validation_and_their_cost_counts():
  rates = (1e-3, 1e-4)
  rows = [
    *rows_of("base", 1e-3, nll=5.0, selected=0.2),
    *rows_of("base", 1e-4, nll=0.0, selected=0.1),
    *rows_of("wide", 1e-3, nll=-1.0, selected=-0.9),
    *rows_of("wide", 1e-4, nll=-2.0, selected=0.3),
    *rows_of("worse", 1e-3, selected=0.0),
    Row("worse", 1e-4, 0, 4, "", FAILED, "diverged", "abc", "cpu", "d"),
  ]
  best = StudyResults(rows, record(rates))
  assert best.rates == {"base": 1e-4, "wide": 1e-3, "worse": 1e-3}
  assert best.of_all_rates("base", "train_flops") == 2e12
  assert best.at_edge == list(best.rates)  # of two rates both are
  assert "a rate beyond it may be better: base, wide, worse." in tables.learning_rates(best).note
  three = StudyResults([*rows, *rows_of("base", 1e-5, selected=0.2)], record((*rates, 1e-5)))
  assert "base" not in three.at_edge and "wide" in three.at_edge
  assert best.mean("base", "nll") - best.mean("wide", "nll") == pytest.approx(1, abs=0.02)
  common = StudyResults(rows, record(rates), common_rate=True)
  assert set(common.rates.values()) == {1e-3}
  assert common.mean("base", "nll") - common.mean("wide", "nll") == pytest.approx(6, abs=0.02)
  assert "all learning rates together" in tables.results(best, best.comparisons(), record()).note


def test_other_tables():
  outcome = StudyResults(study_rows(), record())
  fields = shown(tables.receptive_fields(outcome))
  assert fields["wide"]["all stages"] == "49" and fields["base"]["stage 1"] == "25"
  assert (fields["base"]["LR: 95 % radius"], fields["base"]["LR: gain"]) == ("2", "1.000")
  broken = shown(tables.degraded(outcome, ["jpeg20"]))["worse"]
  assert broken["jpeg20: broken samples"] == "50.0 %"
  assert broken["jpeg20: worst inverse factor"] == "6"
  assert tables.degraded(outcome, []) is None is tables.failures(outcome)
  assert tables.learning_rates(outcome) is None
  differences = tables.differences(outcome, outcome.comparisons())
  assert len(differences.cells) == 1 + 2 * len(METRICS)


@pytest.mark.parametrize("gain", [4e-4, -0.1, float("nan")])
def test_a_radius_is_of_a_gain_in_every_seed(gain):
  rows = [
    dataclasses.replace(row, value=gain)
    if (row.variant, row.seed, row.metric) == ("wide", 1, "rise_lr/0")
    else row
    for row in study_rows()
  ]
  table = tables.receptive_fields(StudyResults(rows, record()))
  radii = {name: line["LR: 95 % radius"] for name, line in shown(table).items()}
  assert radii == {"base": "2", "wide": "-", "worse": "2"}
  assert "less than 0.0005 for any of the seeds" in table.note


def test_plots_are_pngs(monkeypatch):
  monkeypatch.setattr(studies_plots, "METRICS", METRICS[:1] + METRICS[3:4])
  made = plots(StudyResults(study_rows(), record()))
  assert {"nll of validation against steps", "PSNR against parameters of the flow"} <= set(made)
  assert "Rise of the nll where LR is hidden beyond a radius" in made
  assert "nll against receptive field" in made
  assert "nll against floating-point operations of training" not in made  # all have the same
  assert all(png.startswith(b"\x89PNG") for png in made.values())


def test_a_plot_s_legend_is_beside_the_data_and_whole():
  drawn = []

  def width(name):
    def points(axes):
      axes.plot([0, 1], [0, 1], label=name)
      drawn.append(axes)

    return Image.open(io.BytesIO(draw_plot(points))).width

  short, long = width("da"), width(64 * "w")
  legends = [axes.get_legend().get_window_extent() for axes in drawn]
  for axes, legend in zip(drawn, legends, strict=True):
    assert legend.x0 > axes.get_window_extent().x1
  scale = 110 / drawn[0].figure.dpi  # the PNG's dots an inch over those of the extents
  assert long - short == pytest.approx(scale * (legends[1].width - legends[0].width), rel=0.02)


def test_the_report_is_a_function_of_its_files(tmp_path, monkeypatch):
  monkeypatch.setattr(studies_plots, "METRICS", METRICS[:1])
  (tmp_path / "study.json").write_text(json.dumps(record()))
  write_rows(tmp_path / "runs.csv", study_rows())
  picture = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
  write_png(tmp_path / "hr" / "a.png", picture)
  for name in ("base", "wide"):  # "worse" has failed: it has no column
    run = f"{name}-seed0"
    samples = tmp_path / "runs" / run / "evaluation" / "samples"
    write_png(samples / run / "a_00.png", picture)
    write_png(samples / "bicubic" / "a_00.png", picture)
  text = write_report(tmp_path)
  plot = "plots/nll_of_validation_against_steps.png"
  files = ("table.md", "table.tex", "report.html", "sheets/a.png", plot)
  first = {name: (tmp_path / name).read_bytes() for name in files}
  assert first["table.md"].decode() == text
  assert "| **" in text
  latex = first["table.tex"].decode()
  assert r"\textbf{" in latex and latex.count(r"\begin{tabular}") == text.count("\n## ")
  page = first["report.html"].decode()
  assert "<b>" in page and "It is &amp; &lt;by far&gt;." in page and "image/jpeg" in page
  write_report(tmp_path)
  assert {name: (tmp_path / name).read_bytes() for name in files} == first


@pytest.mark.parametrize("missing", ["study.json", "runs.csv"])
def test_a_report_of_nothing_is_refused(tmp_path, missing):
  (tmp_path / "study.json").write_text(json.dumps(record()))
  write_rows(tmp_path / "runs.csv", study_rows())
  (tmp_path / missing).unlink()
  with pytest.raises(InputError, match=missing.replace(".", r"\.")):
    write_report(tmp_path)


def test_a_report_of_no_row_has_empty_tables(tmp_path):
  (tmp_path / "study.json").write_text(json.dumps(record()))
  write_rows(tmp_path / "runs.csv", [])
  assert "| base " in write_report(tmp_path)
