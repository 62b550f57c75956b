"""Checks that the parts of a configuration's flow invert themselves and know their log-det.

    python -m srflow_jax.check --config=softplus_config.py

Each different map, layer and prior is checked by itself, and the whole flow on a small image. It
takes a minute or two; the exit status is 2 if something does not hold.
"""

import jax
from absl import flags
from ml_collections import config_flags

from srflow_jax import cli
from srflow_jax.config import read_config
from srflow_jax.errors import InputError
from srflow_jax.evaluation.report import markdown_table
from srflow_jax.model.building import build_model
from srflow_jax.model.checking import Finding, check_model
from srflow_jax.model.srflow import SRFlow

_FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The configuration file.", flag_values=_FLAGS
)


def main(argv: list[str]) -> None:
  """Checks and prints a table."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  if _CONFIG.value is None:
    raise InputError("--config: which?")
  model = build_model(read_config(_CONFIG.value).model)
  if not isinstance(model, SRFlow):
    raise InputError("config.model is an encoder alone: there is nothing to invert")
  with jax.enable_x64(True):
    findings = list(check_model(model))
  print(markdown_table([("part", "what should be zero", "is", ""), *map(_cells, findings)]))
  if wrong := [finding for finding in findings if not finding.holds]:
    raise InputError("\n".join(_line(finding) for finding in wrong))
  print("all hold")


def _cells(finding: Finding) -> tuple[str, str, str, str]:
  return finding.part, finding.what, f"{finding.error:.1e}", "" if finding.holds else "WRONG"


def _line(finding: Finding) -> str:
  return f"{finding.part}: {finding.what}: {finding.error:.3g}, at most {finding.at_most:g}"


if __name__ == "__main__":
  cli.run(main, _FLAGS)
