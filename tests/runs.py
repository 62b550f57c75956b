"""Runs of `train.py` in processes of their own, and the configuration of such a run."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from configs import tiny
from srflow_jax.training.events import read_scalars

ROOT = pathlib.Path(__file__).resolve().parents[1]
TIMEOUT = 300  # seconds that no process here may take


def get_config():
  """A flow of one step that compiles in seconds; this file is its `--config`."""
  config = tiny.get_config()
  config.model.encoder.update(width=4, growth=2, num_blocks=1, taps=(0,))
  config.model.conditioner.update(width=4, num_hidden=1)
  config.model.stages = ({"squeeze": 4, "transition_steps": 0, "steps": 1, "split": False},)
  config.optim.decay_at = ()  # so that a run cut short has the rates of the whole
  config.data.update(hr_patch=16, batch_size=8, val_patches=8)
  config.update(log_every_steps=5, eval_every_steps=1000, checkpoint_every_steps=5)
  return config


class Process:
  """`train.py`, or another program, started; its output is in a file."""

  def __init__(
    self,
    workdir: pathlib.Path,
    *flags: str,
    devices: int = 1,
    name: str = "log",
    program: tuple[str, ...] = ("train.py", f"--config={__file__}"),
  ):
    environment = os.environ | {
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {os.environ['XLA_FLAGS']}",
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
      # Beside the tests' own folders: what one has compiled, others need not.
      "JAX_COMPILATION_CACHE_DIR": str(workdir.parents[1] / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    self._log = workdir.with_name(f"{workdir.name}.{name}")
    with self._log.open("wb") as log:
      self._process = subprocess.Popen(
        [sys.executable, *program, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
      )

  @property
  def output(self) -> str:
    return self._log.read_text(errors="replace")

  @property
  def pid(self) -> int:
    return self._process.pid

  def running(self) -> bool:
    return self._process.poll() is None

  def signal(self, number: signal.Signals) -> None:
    self._process.send_signal(number)

  def end(self) -> int:
    """Its exit status; it is killed if it takes too long."""
    try:
      return self._process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
      pytest.fail(f"did not end in {TIMEOUT} s:\n{self.output}")


def wait_for(condition, process: Process, seconds: float | None = None) -> None:
  """Until `condition()` holds or the process has ended."""
  end = time.monotonic() + (seconds or TIMEOUT)
  while not condition() and process.running():
    assert time.monotonic() < end, process.output
    time.sleep(0.01)


def saved_steps(workdir: pathlib.Path) -> list[int]:
  """The steps of a workdir's whole checkpoints."""
  folder = workdir / "checkpoints"
  return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def ended(*processes: Process) -> None:
  """Waits for processes to end well."""
  for process in processes:
    assert process.end() == 0, process.output


def scalars(workdir: pathlib.Path) -> dict[str, dict[int, float]]:
  """What TensorBoard is told: for each tag, the latest value at each step."""
  found = read_scalars(workdir)
  return {tag: {step: at.value for step, at in steps.items()} for tag, steps in found.items()}
