"""How the command-line programs start and end.

A user's mistake is reported in one line, with status 2. A run that a signal stopped, and that the
same command continues, ends with status 75; other commands that Ctrl-C stopped, with 130.

No work ends because what it prints cannot be written. That the reader has left, as in `| head`,
changes nothing; that there is no room for standard output makes the status 2 where it were 0, once
the work is done.

Nothing of JAX is imported here before flags are read and signals are answered.
"""

import contextlib
import functools
import math
import os
import pathlib
import signal
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from absl import flags, logging

from srflow_jax.console import reader_not_needed
from srflow_jax.errors import InputError, InputWarning, Interrupted, stop_signals
from srflow_jax.parsing import parse_flags
from srflow_jax.sampling.temperatures import Temperature, parse_temperature

USAGE_ERROR = 2
INTERRUPTED = 75  # os.EX_TEMPFAIL: "try again later"
CTRL_C = 130  # what shells make of SIGINT

_AGAIN_SECONDS = 0.05
# Python's helper that removes what killed workers have left is given the options for warnings of
# the process that starts it, and would speak after the line that says why a command has ended.
_TRACKER_QUIET = "ignore:resource_tracker:UserWarning"

flags.disclaim_key_flags()  # those that are defined here are of the module that asks for it


class PathParser(flags.ArgumentParser):
  """The value of a flag that is a path: `~` is expanded, which shells do not after a `=`."""

  def parse(self, argument: str) -> str:
    """The path; one of a user that there is not stays as it is."""
    return os.path.expanduser(argument)


class PathsParser(flags.ListParser):
  """The value of a flag that is a list of paths, separated by commas, as `PathParser`'s each."""

  def parse(self, argument: str | list[str]) -> list[str]:
    """The paths."""
    return [os.path.expanduser(path) for path in super().parse(argument)]


def define_path(
  name: str,
  default: str | None,
  help_text: str,
  flag_values: flags.FlagValues = flags.FLAGS,
  **settings: Any,
) -> flags.FlagHolder:
  """A flag whose value is a path."""
  serializer = flags.ArgumentSerializer()
  return flags.DEFINE(PathParser(), name, default, help_text, flag_values, serializer, **settings)


def define_paths(
  name: str, help_text: str, flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder:
  """A flag whose value is a list of paths, empty if it is not given."""
  return flags.DEFINE(PathsParser(), name, [], help_text, flag_values, flags.CsvListSerializer(","))


class _TemperatureParser(flags.ArgumentParser):
  """The value of `define_temperature`'s flag."""

  def parse(self, argument: str | Temperature) -> Temperature:
    """The temperature."""
    return parse_temperature(argument) if isinstance(argument, str) else argument


def define_temperature(
  name: str, default: float, help_text: str, flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder[Temperature]:
  """A flag whose value is a temperature, or one for each level of latents: `0.8/0.9`."""
  return flags.DEFINE(_TemperatureParser(), name, default, help_text, flag_values)


class _NumbersParser(flags.ArgumentParser):
  """The value of `define_numbers`' flag."""

  syntactic_help = "numbers separated by commas"

  def __init__(self, kind: type[int] | type[float], least: int) -> None:
    self._kind, self._least = kind, least

  def parse(self, argument: str | list) -> list:
    """The numbers."""
    if not isinstance(argument, str):
      return argument
    found = [self._kind(text) for text in argument.split(",")]
    if not all(self._least <= number < math.inf for number in found):
      raise ValueError(f"they must be {self._least} or more")
    return found


def define_numbers(
  name: str,
  default: list,
  help_text: str,
  kind: type[int] | type[float] = int,
  least: int = 1,
  flag_values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder[list]:
  """A flag whose value is a list of numbers, each at least so large."""
  serializer = flags.CsvListSerializer(",")
  parser = _NumbersParser(kind, least)
  return flags.DEFINE(parser, name, default, help_text, flag_values, serializer)


class _MultiplesParser(flags.ArgumentParser):
  """The value of `define_multiples`' flag."""

  syntactic_help = "alone for 1, or numbers separated by commas"

  def parse(self, argument: str | tuple[float, ...]) -> tuple[float, ...]:
    """The numbers."""
    if not isinstance(argument, str):
      return argument
    if argument in ("true", "false"):  # absl's words for a flag without a value, and for its `no`
      return (1.0,) if argument == "true" else ()
    return tuple(float(text) for text in argument.split(","))


def define_multiples(
  name: str, help_text: str, flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder[tuple[float, ...]]:
  """A flag that is given alone, for the number 1, or with several: `--NAME` or `--NAME=0.5,1`."""
  flag = flags.Flag(_MultiplesParser(), None, name, (), help_text, boolean=True)
  return flags.DEFINE_flag(flag, flag_values)


def _cache_compilations() -> None:
  """Keeps compiled programs between runs, unless JAX's own setting names a place for them."""
  import jax

  # JAX makes the attributes of its configuration as it runs.
  if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
    try:
      cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    except RuntimeError:  # a user without a home
      return
    jax.config.update("jax_compilation_cache_dir", str(cache / "srflow_jax"))
    # By default what took less than a second is not kept, which is half of what an image takes.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _is_distributed() -> bool:
  jax = sys.modules.get("jax")
  return jax is not None and jax.distributed.is_initialized()


def _exit(status: int) -> None:
  """Ends this process, without waiting if it is one of several."""
  if _is_distributed():
    # An ordinary end would wait for the others, and they wait in vain for this one's next step. So
    # they find it gone and end as well.
    _exit_now(status)
  sys.exit(status)


def _exit_now(status: int) -> None:
  """Ends this process whatever its threads do."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def end_interrupted(reason: str) -> NoReturn:
  """Ends this process with status 75, out of a signal's handler."""
  # Written by `os`, since the signal may come in the middle of a `print`.
  with contextlib.suppress(OSError):  # nobody need read it
    os.write(2, f"{reason}\n".encode())
  os._exit(INTERRUPTED)


def _stop_at_start(number: int, frame: FrameType | None) -> None:
  """Answers a signal that comes before training has a state to save, or after it has saved it."""
  del number, frame
  end_interrupted("stopped by a signal while no step was running; the same command goes on")


def _cannot_be_raised(say: Callable[[Any], object], failed: Any) -> None:
  """Answers what is raised where Python drops any exception, as while garbage is collected.

  A Ctrl-C is repeated; of a library's errors nothing is said, as of those in its threads.

  Args:
    say: reports what `sys.unraisablehook` is given.
    failed: that.
  """
  if issubclass(failed.exc_type, KeyboardInterrupt):
    timer = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
  elif _began_here(failed):
    say(failed)


def run(
  main: Callable[[list[str]], None],
  flag_values: flags.FlagValues = flags.FLAGS,
  resumes: bool = False,
) -> None:
  """Parses flags and calls `main(argv)`; an `InputError` is printed as its one line.

  Args:
    main: the command. It imports slow modules itself, so that signals and mistakes are
      answered before that.
    flag_values: the command's flags. Those of a command's own, rather than absl's global ones, let
      one process call several commands.
    resumes: whether SIGTERM, SIGINT and SIGHUP end the command with status 75 until it handles
      them.
  """
  with reader_not_needed() as output, _answered(resumes):
    try:
      _run(main, flag_values)
      sys.stdout.flush()
      if output and output.error:
        raise InputError(f"standard output: cannot be written: {output.error.strerror}")
    except Interrupted as stopped:
      import jax

      if jax.process_index() == 0:
        print(stopped, file=sys.stderr)
      sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
      print("interrupted", file=sys.stderr)
      _exit_now(CTRL_C)
    except InputError as error:
      print(f"error: {error}", file=sys.stderr)
      _exit(USAGE_ERROR)
    except Exception as error:
      if "RESOURCE_EXHAUSTED" in str(error):
        tiles = ": with a smaller --max_memory_gb, images are cut into smaller tiles"
        print(
          f"error: the memory does not suffice{tiles if 'max_memory_gb' in flag_values else ''}",
          file=sys.stderr,
        )
        _exit(USAGE_ERROR)
      if place := _last_foreign_frame(error):
        error.add_note(f"at {place}")  # stands last, below what may be a hundred lines
      if not _is_distributed():
        raise
      traceback.print_exc()
      _exit(1)


def _run(main: Callable[[list[str]], None], flag_values: flags.FlagValues) -> None:
  if {"--help", "-h", "--helpfull"} & set(sys.argv):
    print(f"{sys.modules[main.__module__].__doc__ or ''}\nflags:\n{flag_values.get_help()}")
    return
  argv = parse_flags(sys.argv, flag_values)
  _cache_compilations()
  main(argv)


def _last_foreign_frame(error: BaseException) -> str:
  """Where an error arose in a module of the user's, such as a plugin; "" if in none."""
  others = {pathlib.Path(sys.argv[0]).absolute(), pathlib.Path(__file__).parent}
  others |= {pathlib.Path(path) for path in sysconfig.get_paths().values()}  # of libraries
  own = [
    frame
    for frame in traceback.extract_tb(error.__traceback__)
    if (file := pathlib.Path(frame.filename).absolute()).is_file()
    and not others & {file, *file.parents}
  ]
  return f"{own[-1].filename}:{own[-1].lineno}, in {own[-1].name}" if own else ""


def _began_here(failed: Any) -> bool:
  """Whether a thread, or a callback, that failed ran a function of this package, not of a library.

  Args:
    failed: what `threading.excepthook` or `sys.unraisablehook` is given.
  """
  files = (frame.filename for frame in traceback.extract_tb(failed.exc_traceback))
  first = next((file for file in files if file != threading.__file__), "")
  return pathlib.Path(__file__).parent in pathlib.Path(first).parents


@contextlib.contextmanager
def _answered(resumes: bool) -> Iterator[None]:
  """Answers signals, and silences what libraries log and what their threads fail with.

  A library whose thread fails raises that error in the main thread as well, which reports it. So do
  those whose threads of C++ call back, once each, after a first one has failed.
  """
  numbers = stop_signals() if resumes else ()
  handlers = {number: signal.signal(number, _stop_at_start) for number in numbers}
  verbosity, hook, unraisable = (
    logging.get_verbosity(),
    threading.excepthook,
    sys.unraisablehook,
  )
  shows = warnings.showwarning

  def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
    if issubclass(category, InputWarning):
      print(f"warning: {message}", file=sys.stderr)
    else:
      shows(message, category, *where)

  warnings.showwarning = show
  logging.set_verbosity(logging.FATAL)
  threading.excepthook = lambda failed: hook(failed) if _began_here(failed) else None
  sys.unraisablehook = functools.partial(_cannot_be_raised, unraisable)
  sys.warnoptions.append(_TRACKER_QUIET)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
    threading.excepthook, sys.unraisablehook = hook, unraisable
    warnings.showwarning = shows
    sys.warnoptions.remove(_TRACKER_QUIET)
    for number, handler in handlers.items():
      signal.signal(number, handler)
