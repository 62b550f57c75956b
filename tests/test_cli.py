"""How commands start and end: signals, Ctrl-C, memory, no home, two in one process."""

import pathlib
import runpy
import signal
import subprocess
import sys
import threading

import jax
import pytest
from absl import flags

import runs
from srflow_jax import cli
from srflow_jax.errors import InputError, Interrupted


def run(main, monkeypatch, *arguments, **settings):
  """Runs a command in this process."""
  monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
  monkeypatch.setattr(sys, "argv", ["command.py", *arguments])
  cli.run(main, flags.FlagValues(), **settings)


def raises(error):
  def main(argv):
    raise error

  return main


ENDS = {
  "mistake": (InputError("x.png: no such file"), cli.USAGE_ERROR, "error: x.png: no such file\n"),
  "signal": (Interrupted("stopped after step 3"), cli.INTERRUPTED, "stopped after step 3\n"),
  "memory": (
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
    cli.USAGE_ERROR,
    "error: the memory does not suffice: with a smaller --max_memory_gb, images are cut into "
    "smaller tiles\n",
  ),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_command_ends_with_one_line(name, monkeypatch, capsys):
  error, status, line = ENDS[name]
  with pytest.raises(SystemExit) as ended:
    run(raises(error), monkeypatch)
  assert ended.value.code == status and capsys.readouterr().err == line


def test_ctrl_c_ends_with_one_line(monkeypatch, capsys):
  ended = []
  monkeypatch.setattr(cli, "_exit_now", ended.append)
  run(raises(KeyboardInterrupt()), monkeypatch)
  assert ended == [cli.CTRL_C] and capsys.readouterr().err == "interrupted\n"


def test_faults_of_ours_are_not_hidden(monkeypatch):
  with pytest.raises(ZeroDivisionError):
    run(lambda argv: 1 / 0, monkeypatch)


def test_all_is_put_back_afterwards(monkeypatch):
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = [signal.getsignal(number) for number in numbers], threading.excepthook
  run(lambda argv: None, monkeypatch, resumes=True)
  assert before == ([signal.getsignal(number) for number in numbers], threading.excepthook)


@pytest.fixture
def cache():
  """Puts the place of compiled programs back."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  jax.config.update("jax_compilation_cache_dir", before)


def test_a_user_without_a_home_is_served(cache, monkeypatch):
  def no_home():
    raise RuntimeError("Could not determine home directory.")

  monkeypatch.setattr(pathlib.Path, "home", no_home)
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  cli._cache_compilations()
  assert jax.config.jax_compilation_cache_dir is None


def test_compiled_programs_are_kept_in_the_user_s_cache(cache, monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  cli._cache_compilations()
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "srflow_jax")


def test_a_command_may_be_loaded_twice_in_one_process(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
  for _ in range(2):
    runpy.run_path(str(runs.ROOT / "train.py"), run_name="__main__")
  said = capsys.readouterr().out
  assert said.startswith("Trains a model") and "--[no]allow_config_change" in said


SIGNALLED = """
import os

def get_config():
  os.kill(os.getpid(), {number})
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_ends_with_75(number, tmp_path):
  config = tmp_path / "mine.py"
  config.write_text(SIGNALLED.format(number=int(number)))
  result = subprocess.run(
    [sys.executable, "train.py", f"--config={config}", f"--workdir={tmp_path / 'W'}"],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    timeout=runs.TIMEOUT,
    check=False,
  )
  assert result.returncode == cli.INTERRUPTED
  assert result.stderr == (
    "stopped by a signal while no step was running; the same command goes on\n"
  )
