"""Reads a command's flags, and says in one line what is wrong with them or with `--config`."""

import os
import re
import sys
import traceback

from absl import flags

from srflow_jax.errors import InputError


def parse_flags(argv: list[str], flag_values: flags.FlagValues) -> list[str]:
  """Reads the flags.

  Raises:
    InputError: a flag, a configuration file or a field of it cannot be used.
  """
  argv = [
    flag.replace("~", os.path.expanduser("~"), 1) if re.match("--?config=~/", flag) else flag
    for flag in argv
  ]
  config = _config_path(argv)
  if config is not None and not os.path.isfile(config):
    raise InputError(f"--config={config}: {'no such file' if config else 'names no file'}")
  if sum(bool(re.match("--?config(=|$)", flag)) for flag in argv) > 1:
    raise InputError("--config is given twice")
  # All files are loaded into this module, where the last one's functions would remain.
  sys.modules.pop("config_config", None)
  try:
    return flag_values(argv)
  except Exception as error:
    # A configuration file is a program: it and what reads it may raise anything. What it refuses
    # itself comes wrapped, with its traceback as text.
    chain = _chain(error)
    refused = [e for e in chain if isinstance(e, InputError) and "\n" not in str(e)]
    if refused:
      raise InputError(str(refused[0])) from error  # the outermost says where
    for cause in reversed(chain):
      lines = [
        frame.lineno
        for frame in traceback.extract_tb(cause.__traceback__)
        if config and frame.filename.endswith(config)
      ]
      if isinstance(cause, SyntaxError) and config and str(cause.filename).endswith(config):
        lines.append(cause.lineno)
      if lines:
        raise InputError(f"{config}, line {lines[-1]}: {_reason(cause)}") from error
    if isinstance(error, flags.Error):
      raise InputError(_flag_refused(error, config)) from error
    if "has no attribute 'get_config'" in str(error):
      raise InputError(f"{config}: it has no function get_config") from error
    raise InputError(_key_refused(error, argv) or f"{config}: {_reason(error)}") from error


def _config_path(argv: list[str]) -> str | None:
  """The file that `--config` names, or None."""
  for flag, following in zip(argv, [*argv[1:], ""], strict=True):
    if match := re.fullmatch(r"--?config(?:=([^:]*).*)?", flag, re.DOTALL):
      return match.group(1) if match.group(1) is not None else following.split(":")[0]
  return None


def _flag_refused(error: flags.Error, config: str | None) -> str:
  """Why a flag's value cannot be used."""
  said = str(error).strip()
  if "Error whilst parsing config file" in said:  # with a traceback as text
    return f"{config}: {said.splitlines()[-1].strip()}"
  if match := re.match(r"flag (--[^=]+)=(.*): Failed to parse .* as a ConfigDict", said, re.DOTALL):
    flag, value = match.groups()
    return f"{flag}={value}: it must be a block, as \"{flag}={{'kind':'{value}'}}\""
  return _reason(error)


def _key_refused(error: Exception, argv: list[str]) -> str:
  """Which override of a configuration's field cannot be made, and what else to try; '' if none."""
  overrides = [flag for flag in argv if flag.lstrip("-").startswith("config.")]
  name = str(error.args[0] if error.args else "").strip("'\"")
  named = [flag for flag in overrides if name in re.split(r"[.\[\]=]", flag.partition("=")[0])]
  if not overrides or not named:
    shown = " ".join(overrides)
    return f"configuration key that cannot be set: {_reason(error)} (in {shown})" if shown else ""
  block, _, field = named[0].partition("=")[0].rpartition(".")
  has_kinds = re.search(r"config\.(model\.\w+|data\.noise|optim\.optimizer)$", block)
  whole = (
    f"; a field of a kind is given with the whole block: \"{block}={{'kind':...,'{field}':...}}\""
  )
  said = f"configuration key that cannot be set: {named[0]}: there is no {name!r}"
  return said + (whole if has_kinds else "")


def _chain(error: BaseException) -> list[BaseException]:
  """An error and what it arose from, the origin last."""
  chain = [error]
  while (inner := chain[-1].__cause__ or chain[-1].__context__) and inner not in chain:
    chain.append(inner)
  return chain


def _reason(error: BaseException) -> str:
  """The message of an error, in one line."""
  said = " ".join(str(error.args[0] if error.args else error).split())
  return (
    said
    if isinstance(error, flags.Error | ValueError) and said
    else (f"{type(error).__name__}: {said}" if said else type(error).__name__)
  )
