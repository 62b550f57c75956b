"""Several processes, and other numbers of devices, do what one does with one."""

import pathlib
import shutil
import signal
import socket

import pytest

import runs
from fakes import write_hr
from srflow_jax.cli import INTERRUPTED, USAGE_ERROR

STEPS = 6
EVERY_STEP = "--config.log_every_steps=1"


def two_processes(workdir: pathlib.Path, *flags: str, of_second: tuple[str, ...] = ()):
  """Two processes of one run, on this machine, of a device each."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  flags = (*flags, f"--coordinator={address}", "--num_processes=2")
  return (
    runs.Process(workdir, *flags, "--process_id=0", name="first"),
    runs.Process(workdir, *flags, "--process_id=1", *of_second, name="second"),
  )


def losses(workdir: pathlib.Path) -> dict[int, float]:
  return runs.scalars(workdir)["train/nll"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  """A run of six steps on one device: its losses."""
  workdir = tmp_path_factory.mktemp("one") / "W"
  runs.ended(runs.Process(workdir, EVERY_STEP, f"--config.num_train_steps={STEPS}"))
  return losses(workdir)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
  """A run of three steps on eight devices: its folder."""
  workdir = tmp_path_factory.mktemp("eight") / "W"
  runs.ended(runs.Process(workdir, EVERY_STEP, "--config.num_train_steps=3", devices=8))
  return workdir


@pytest.fixture(scope="module")
def in_two(half, tmp_path_factory):
  """The same run, continued to six steps in two processes: its folder and their outputs."""
  workdir = tmp_path_factory.mktemp("two") / "W"
  shutil.copytree(half, workdir)
  processes = two_processes(workdir, EVERY_STEP, f"--config.num_train_steps={STEPS}")
  runs.ended(*processes)
  return workdir, [process.output for process in processes]


def assert_close(found: dict[int, float], wanted: dict[int, float]) -> None:
  # Not relative to each: the loss passes zero in these steps.
  scale = max(abs(loss) for loss in wanted.values())
  for step, loss in found.items():
    assert abs(loss - wanted[step]) < 1e-5 * scale, (found, wanted)


@pytest.mark.slow  # test_devices.py does this in one process, faster
def test_eight_devices_train_as_one(half, one):
  assert sorted(losses(half)) == [1, 2, 3]
  assert_close(losses(half), one)


@pytest.mark.slow
def test_a_run_of_eight_devices_goes_on_with_one(half, one, tmp_path):
  workdir = tmp_path / "W"
  shutil.copytree(half, workdir)
  runs.ended(runs.Process(workdir, EVERY_STEP, f"--config.num_train_steps={STEPS}"))
  assert sorted(losses(workdir)) == list(range(1, STEPS + 1))
  assert_close(losses(workdir), one)


@pytest.mark.slow
def test_a_run_of_eight_devices_goes_on_with_two_processes(in_two, one):
  workdir, outputs = in_two
  assert sorted(losses(workdir)) == list(range(1, STEPS + 1))
  assert_close(losses(workdir), one)
  assert runs.saved_steps(workdir)[-1] == STEPS
  assert f"continuing {workdir} from step 3" in outputs[0]
  assert "continuing" not in outputs[1] and "training:" not in outputs[1]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step(in_two, tmp_path):
  workdir = tmp_path / "W"
  shutil.copytree(in_two[0], workdir)
  first, second = two_processes(workdir, EVERY_STEP, "--config.num_train_steps=1000000")
  runs.wait_for(lambda: runs.saved_steps(workdir)[-1] > STEPS, first)
  second.signal(signal.SIGTERM)
  assert (first.end(), second.end()) == (INTERRUPTED, INTERRUPTED), first.output + second.output
  latest = runs.saved_steps(workdir)[-1]
  assert f"stopped by a signal after step {latest}; the same command goes on" in first.output
  assert not list((workdir / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_an_image_that_one_process_loses_ends_both_with_a_line(index, tmp_path):
  folders = [tmp_path / str(number) for number in (0, 1)]
  for folder in folders:
    write_hr(folder)
  flags = (EVERY_STEP, "--config.num_train_steps=1000000", "--config.data.cache_mb=0")
  processes = two_processes(
    tmp_path / "W",
    *flags,
    f"--config.data.train_dir={folders[0]}",
    of_second=(f"--config.data.train_dir={folders[1]}",),
  )
  runs.wait_for(lambda: runs.saved_steps(tmp_path / "W"), processes[0])
  (folders[index] / "two.png").unlink()
  assert [process.end() for process in processes] == [USAGE_ERROR] * 2, [
    process.output for process in processes
  ]
  latest = runs.saved_steps(tmp_path / "W")[-1]
  after = f"training stopped after step {latest}, the same command goes on from step {latest}"
  lines = [process.output.rstrip().splitlines()[-1] for process in processes]
  lost = folders[index] / "two.png"
  assert lines[index] == f"error: {lost}: cannot be read: No such file or directory; {after}"
  assert lines[1 - index] == f"error: process {index} cannot go on, its output says why; {after}"


def test_what_one_process_refuses_all_refuse(tmp_path):
  refused = ("--config.data.train_dir=/nowhere",)
  first, second = two_processes(tmp_path / "W", of_second=refused)
  assert (first.end(), second.end()) == (USAGE_ERROR, USAGE_ERROR), first.output + second.output
  assert "process 1 cannot start; its output says why" in first.output
  assert "/nowhere" in second.output
  assert not (tmp_path / "W").exists()


@pytest.mark.parametrize(
  "flags, named",
  [
    (["--coordinator=127.0.0.1:1"], "--num_processes, --process_id"),
    (["--distributed", "--process_id=1"], "give either"),
    (["--coordinator=x:1", "--num_processes=2", "--process_id=2"], "process_id < num_processes"),
  ],
)
def test_flags_that_do_not_fit_are_refused(flags, named, tmp_path):
  process = runs.Process(tmp_path / "W", *flags)
  assert process.end() == USAGE_ERROR
  assert named in process.output and len(process.output.splitlines()) == 1, process.output
