"""How commands start and end: signals, Ctrl-C, memory, no home, two in one process."""

import gc
import importlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
import time
import weakref

import jax
import pytest
from absl import flags
from ml_collections import config_flags

import runs
from srflow_jax import cli, files
from srflow_jax.config import read_config
from srflow_jax.errors import InputError, Interrupted, stop_signals
from srflow_jax.evaluation import Settings
from srflow_jax.parsing import parse_flags


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
    "error: the memory does not suffice\n",
  ),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_command_ends_with_one_line(name, monkeypatch, capsys):
  error, status, line = ENDS[name]
  with pytest.raises(SystemExit) as ended:
    run(raises(error), monkeypatch)
  assert ended.value.code == status and capsys.readouterr().err == line


def test_a_budget_of_memory_is_advised_where_there_is_a_flag_for_it(monkeypatch, capsys):
  own = flags.FlagValues()
  flags.DEFINE_float("max_memory_gb", 0.0, "A budget.", flag_values=own)
  monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
  monkeypatch.setattr(sys, "argv", ["command.py"])
  with pytest.raises(SystemExit):
    cli.run(raises(ENDS["memory"][0]), own)
  assert "with a smaller --max_memory_gb, images are cut into smaller" in capsys.readouterr().err


def test_a_thread_of_ours_that_fails_is_told_of_and_a_library_s_is_not(monkeypatch, capsys):
  """A library's raises its error in the main thread as well."""
  monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

  def main(argv):
    for target, argument in ((files.read_json, "nowhere.json"), (json.loads, "{broken")):
      thread = threading.Thread(target=target, args=(argument,))
      thread.start()
      thread.join()

  run(main, monkeypatch)
  said = capsys.readouterr().err
  assert "nowhere.json: cannot be read" in said and "JSONDecodeError" not in said


def test_a_callback_of_ours_that_fails_is_told_of_and_a_library_s_is_not(monkeypatch):
  """Those of a library's threads fail by the hundred once one of them has failed."""
  told = []
  monkeypatch.setattr(sys, "unraisablehook", lambda failed: told.append(failed.object))

  def main(argv):
    for callback in (files.read_json, json.loads):  # neither takes the reference that it is given
      dies = threading.Event()
      _ = weakref.ref(dies, callback)
      del dies

  run(main, monkeypatch)
  assert told == [files.read_json]


def test_ctrl_c_ends_with_one_line(monkeypatch, capsys):
  ended = []
  monkeypatch.setattr(cli, "_exit_now", ended.append)
  run(raises(KeyboardInterrupt()), monkeypatch)
  assert ended == [cli.CTRL_C] and capsys.readouterr().err == "interrupted\n"


@pytest.fixture
def heeded():
  """Signals that are ignored in the background, or under nohup, are not."""
  handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
  before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


def test_a_ctrl_c_while_garbage_is_collected_is_not_lost(heeded, monkeypatch, capsys):
  ended = []
  monkeypatch.setattr(cli, "_exit_now", ended.append)

  def interrupt(phase, info):
    gc.callbacks.remove(interrupt)
    signal.raise_signal(signal.SIGINT)

  def main(argv):
    gc.callbacks.append(interrupt)
    gc.collect()
    time.sleep(10)

  run(main, monkeypatch)
  assert ended == [cli.CTRL_C] and capsys.readouterr().err == "interrupted\n"


UNREAD = """
import contextlib, os, sys, tqdm
from absl import flags
from srflow_jax import cli

def main(argv):
  print("told " * 20_000)  # more than a pipe and a buffer hold
  for _ in tqdm.tqdm(range(3), mininterval=0):
    tqdm.tqdm.write("a line")
  with open(argv[1], "w") as file:
    with contextlib.suppress(OSError):
      os.write(2, b"what a library says")
    file.write("done")

cli._cache_compilations = lambda: None
cli.run(main, flags.FlagValues())
"""


@pytest.mark.parametrize("flag", [[], ["-u"]])
@pytest.mark.parametrize(
  "redirection, status",
  [
    (">/dev/full", cli.USAGE_ERROR),
    ("2>/dev/full", 0),
    (">&-", 0),
    ("2>&-", 0),
    (">&- 2>&- <&-", 0),
    ("| head", 0),
    ("2>&1 | head", 0),
  ],
)
def test_work_is_done_whether_or_not_what_it_prints_is_read(redirection, status, flag, tmp_path):
  file, (reader, unread) = tmp_path / "file", os.pipe()
  os.close(reader)  # as a head that has ended
  redirection, _, piped = redirection.partition("|")
  command = [sys.executable, *flag, "-c", UNREAD, str(file)]
  result = subprocess.run(
    ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
    cwd=runs.ROOT,
    stdout=unread if piped else subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    timeout=runs.TIMEOUT,
    check=False,
  )
  os.close(unread)
  assert file.read_text() == "done" and result.returncode == status
  assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
  error = "error: standard output: cannot be written: No space left on device\n"
  assert result.stderr.endswith(error) == (status != 0)


def test_faults_of_ours_are_not_hidden(monkeypatch):
  with pytest.raises(ZeroDivisionError):
    run(lambda argv: 1 / 0, monkeypatch)


def test_a_fault_of_a_plugin_names_its_line_last(tmp_path, monkeypatch):
  module = tmp_path / "faulty_kind.py"
  module.write_text("import json\n\n\ndef forward(z):\n  return json.loads(z)\n")
  monkeypatch.syspath_prepend(tmp_path)
  forward = importlib.import_module("faulty_kind").forward
  with pytest.raises(json.JSONDecodeError) as raised:
    run(lambda argv: forward("{"), monkeypatch)
  assert raised.value.__notes__ == [f"at {module}:5, in forward"]


def test_all_is_put_back_afterwards(monkeypatch):
  def found():
    handlers = [signal.getsignal(number) for number in stop_signals()]
    return handlers, threading.excepthook, sys.unraisablehook, sys.stdout, sys.stderr

  before = found()
  run(lambda argv: None, monkeypatch, resumes=True)
  assert before == found()


def test_a_hangup_that_is_ignored_stays_so(heeded, monkeypatch):
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  run(lambda argv: signal.raise_signal(signal.SIGHUP), monkeypatch, resumes=True)


@pytest.fixture
def cache():
  """Puts the place of compiled programs back, and from what time on they are kept."""
  names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
  before = {name: getattr(jax.config, name) for name in names}
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


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


COMMANDS = ("train", "evaluate", "prepare_data", "import_weights", "export_weights")
COMMANDS += ("enlarge", "ablate")


def test_all_commands_may_be_loaded_twice_in_one_process(monkeypatch, capsys):
  """As in a notebook's kernel."""
  for name in COMMANDS * 2:
    program = runs.ROOT / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [program.name, "--help"])
    runpy.run_path(str(program), run_name="__main__")
    first_line = program.read_text().split('"""')[1].split("\n")[0]
    assert capsys.readouterr().out.startswith(first_line)


def test_enlarge_expands_the_tilde(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  module = runpy.run_path(str(runs.ROOT / "enlarge.py"), run_name="command")
  module["_FLAGS"](["enlarge.py", "--workdir=~/W", "--out=~/out"])
  assert module["_WORKDIR"].value == f"{tmp_path}/W" and module["_OUT"].value == f"{tmp_path}/out"


def test_commands_answer_signals_before_they_import_what_takes_long():
  names = [f"{name}.py" for name in COMMANDS]
  program = (
    "import runpy, sys\n"
    f"for name in {names}: runpy.run_path(name, run_name='command')\n"
    "print({'jax', 'numpy', 'tensorflow_datasets'} & set(sys.modules) or 'none')"
  )
  environment = os.environ | {"PYTHONPATH": str(runs.ROOT)}
  said = subprocess.check_output([sys.executable, "-c", program], cwd=runs.ROOT, env=environment)
  assert said == b"none\n"


def test_evaluate_s_defaults_are_those_of_its_settings():
  flag_values = runpy.run_path(str(runs.ROOT / "evaluate.py"), run_name="command")
  for flag, field in (("NUM_SAMPLES", "num_samples"), ("TEMPERATURE", "temperature")):
    assert flag_values[f"_{flag}"].default == getattr(Settings(), field)
  for flag, field in (("SEED", "seed"), ("UINT8", "uint8_mode"), ("LPIPS_VGG", "lpips_vgg")):
    assert flag_values[f"_{flag}"].default == getattr(Settings(), field)


PATHS = [
  ("~/x", "HOME/x"),
  ("~", "HOME"),
  ("/a/~/x", "/a/~/x"),
  ("a~", "a~"),
  ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
  ("", ""),
]


@pytest.mark.parametrize("given, expected", PATHS)
def test_a_home_is_expanded_in_all_paths(given, expected, monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  expected = expected.replace("HOME", "/home/me")
  flag_values = flags.FlagValues()
  path = cli.define_path("path", None, "A path.", flag_values)
  paths = cli.define_paths("paths", "Paths.", flag_values)
  several = flags.DEFINE_multi(
    cli.PathParser(), flags.ArgumentSerializer(), "several", None, "", flag_values
  )
  flag_values(["x", f"--path={given}", f"--paths={given},b", f"--several={given}", "--several=b"])
  assert path.value == expected and paths.value == [expected, "b"]
  assert several.value == [expected, "b"]
  config = runs.get_config()
  config.data.train_dir, config.data.val_dir = f"{given}:b", given
  config.optim.encoder_init = given
  read = read_config(config)
  assert (read.data.train_dir, read.data.val_dir) == (f"{expected}:b", expected)
  assert read.optim.encoder_init == expected


def test_a_config_in_the_home_is_found(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "mine.py").write_text(
    "import ml_collections\ndef get_config(): return ml_collections.ConfigDict({'a': 1})"
  )
  monkeypatch.setattr(sys, "argv", ["x", "--config=~/mine.py", "--config.a=2"])
  flag_values = flags.FlagValues()
  config = config_flags.DEFINE_config_file("config", flag_values=flag_values)
  parse_flags(sys.argv, flag_values)
  assert config.value.a == 2


SIGNALLED = """
import json
import os

def get_config():
  os.kill(os.getpid(), {number})
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_the_first_step_ends_with_75(number, heeded, tmp_path):
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


@pytest.mark.parametrize(
  "given, expected",
  [
    ([], ()),
    (["--m"], (1.0,)),
    (["--m=0.5,2"], (0.5, 2.0)),
    (["--nom"], ()),
    (["--m", "a"], (1.0,)),
  ],
)
def test_a_flag_that_is_given_alone_or_with_numbers(given, expected):
  flag_values = flags.FlagValues()
  multiples = cli.define_multiples("m", "Multiples.", flag_values)
  flag_values(["program", *given])
  assert multiples.value == expected
  with pytest.raises(flags.IllegalFlagValueError):
    flag_values(["program", "--m=one"])


@pytest.mark.parametrize(
  "given, message",
  [("x", "invalid literal for int"), ("3,0", "they must be 1 or more"), ("", "invalid literal")],
)
def test_a_list_of_numbers_is_of_numbers_that_are_large_enough(given, message):
  own = flags.FlagValues()
  holder = cli.define_numbers("sizes", [8], "Sizes.", flag_values=own)
  own(["command.py", "--sizes=3,5"])
  assert holder.value == [3, 5]
  with pytest.raises(flags.IllegalFlagValueError, match=message):
    own(["command.py", f"--sizes={given}"])
