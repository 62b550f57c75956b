"""How the command-line programs start, and how they report a user's mistake: one line, status 2."""

import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable

import jax
from absl import app, flags, logging

from srflow_jax.errors import InputError

USAGE_ERROR = 2


def _fail(message: str) -> None:
  print(f"error: {message}", file=sys.stderr)
  sys.exit(USAGE_ERROR)


def _config_path(argv: list[str]) -> str:
  """The file that `--config` names, or ''."""
  for flag, following in zip(argv, [*argv[1:], ""], strict=True):
    if match := re.fullmatch(r"--?config(?:=([^:]*).*)?", flag):
      return match.group(1) if match.group(1) is not None else following.split(":")[0]
  return ""


def _parse(argv: list[str]) -> list[str]:
  config = _config_path(argv)
  if config and not os.path.isfile(config):
    _fail(f"--config={config}: no such file")
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _fail(" ".join(str(error).split()))
  except (AttributeError, KeyError, TypeError, ValueError, SyntaxError) as error:
    # What ml_collections raises for an unknown or mistyped key, on the command line or in the file.
    reason = " ".join(str(error.args[0] if error.args else error).split())
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(error.__traceback__)
      if config and frame.filename.endswith(config)
    ]
    if lines:
      _fail(f"{config}, line {lines[-1]}: {reason}")
    overrides = [flag for flag in argv if flag.lstrip("-").startswith("config.")]
    _fail(f"configuration key that cannot be set: {reason} (in {' '.join(overrides) or config})")


def _cache_compilations() -> None:
  """Keeps compiled programs between runs, unless JAX's own setting names a place for them."""
  if jax.config.jax_compilation_cache_dir is None:
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    jax.config.update("jax_compilation_cache_dir", str(cache / "srflow_jax"))


def run(main: Callable[[list[str]], None]) -> None:
  """Parses flags and calls `main(argv)`; an `InputError` is printed as its one line."""

  def guarded(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    _cache_compilations()
    try:
      main(argv)
    except InputError as error:
      _fail(str(error))

  app.run(guarded, flags_parser=_parse)
