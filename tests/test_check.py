"""The command that checks a configuration's flow."""

import importlib
import sys

import jax
import pytest

import plugin_kinds
import runs
from srflow_jax import check, cli
from srflow_jax.model.building import build_model
from srflow_jax.model.checking import Finding, check_model


def ended(monkeypatch, capsys, *arguments):
  """The command's status, and what it printed to standard output and to the error stream."""
  monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
  monkeypatch.setattr(sys, "argv", ["check", *arguments])
  check._FLAGS.unparse_flags()
  status = 0
  try:
    cli.run(check.main, check._FLAGS)
  except SystemExit as end:
    status = end.code
  return status, *capsys.readouterr()


def test_what_does_not_hold_is_a_line_and_a_status(monkeypatch, capsys):
  findings = [Finding("map wrong", "z → y → z", 0.5), Finding("prior fine", "z → y → z", 1e-9)]
  monkeypatch.setattr(check, "check_model", lambda model: iter(findings))
  config = f"--config={runs.__file__}"
  status, out, err = ended(monkeypatch, capsys, config)
  assert status == 2 and err == "error: map wrong: z → y → z: 0.5, at most 1e-06\n"
  assert "| prior fine | z → y → z           | 1.0e-09 |       |" in out
  del findings[0]
  status, out, err = ended(monkeypatch, capsys, config)
  assert status == 0 and err == "" and out.endswith("\nall hold\n")


@pytest.mark.parametrize(
  "flags, message",
  [
    ([], "error: --config: which?\n"),
    (["--config=configs/rrdb_x4.py"], "error: config.model is an encoder alone: there is nothing"),
  ],
)
def test_mistakes_are_one_line(flags, message, monkeypatch, capsys):
  monkeypatch.chdir(runs.ROOT)
  status, _, err = ended(monkeypatch, capsys, *flags)
  assert status == 2 and err.startswith(message) and err.count("\n") == 1


def test_all_parts_of_a_flow_and_of_plugins_are_checked():
  with jax.enable_x64(True):
    findings = list(check_model(build_model(plugin_kinds.get_config().model)))
  assert all(finding.holds for finding in findings)
  names = {finding.part for finding in findings}
  assert {"map soft", "layer mixer (triangular)", "prior shifted", "the whole flow"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x4_da_d", "x4_srflow", "x4_hcflow", "x4_null_space"])
def test_configurations_of_full_size_hold(name):
  config = importlib.import_module(f"configs.{name}").get_config()
  with jax.enable_x64(True):
    findings = list(check_model(build_model(config.model)))
  assert [finding for finding in findings if not finding.holds] == []
