"""How the command-line programs start and end.

A user's mistake is reported in one line, with status 2. A run that a signal stopped, and that the
same command continues, ends with status 75.
"""

import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable

import jax
from absl import app, flags, logging

from srflow_jax.errors import InputError, Interrupted

USAGE_ERROR = 2
INTERRUPTED = 75  # os.EX_TEMPFAIL: "try again later"


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
    # What a configuration file itself refuses comes wrapped, with its traceback as text.
    said = inner = error
    while inner := inner.__cause__ or inner.__context__:
      said = inner if isinstance(inner, InputError) else said
    _fail(" ".join(str(said).split()))
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


def _exit(status: int) -> None:
  """Ends this process; where it is one of several, at once."""
  if jax.distributed.is_initialized():
    # An ordinary end would wait for the others, and they wait in vain for this one's next step. So
    # they find it gone and end as well.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)


def run(main: Callable[[list[str]], None]) -> None:
  """Parses flags and calls `main(argv)`; an `InputError` is printed as its one line."""

  def guarded(argv: list[str]) -> None:
    logging.set_verbosity(logging.FATAL)  # what libraries log as errors they also raise
    _cache_compilations()
    try:
      main(argv)
    except Interrupted as stopped:
      if jax.process_index() == 0:
        print(stopped, file=sys.stderr)
      sys.exit(INTERRUPTED)
    except InputError as error:
      print(f"error: {error}", file=sys.stderr)
      _exit(USAGE_ERROR)
    except Exception:
      if not jax.distributed.is_initialized():
        raise
      traceback.print_exc()
      _exit(1)

  app.run(guarded, flags_parser=_parse)
