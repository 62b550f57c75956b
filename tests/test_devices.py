"""Eight devices do what one does. They are the CPU's, in a process of their own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

# By default `test_processes.py` trains three steps so.
pytestmark = pytest.mark.slow

TESTS = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def found():
  """What `eight_devices.py` found."""
  flags = f"--xla_force_host_platform_device_count=8 {os.environ['XLA_FLAGS']}"
  path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
  result = subprocess.run(
    [sys.executable, str(TESTS / "eight_devices.py")],
    env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return json.loads(result.stdout.splitlines()[-1])


def test_twenty_steps_give_the_losses_of_one_device(found):
  assert len(found["losses"]) == 20 and found["losses"][-1] < found["losses"][0] - 0.1
  assert found["loss difference"] < 1e-5
  assert found["parameter difference"] < 1e-3  # of what began as zero, too


def test_a_batch_worked_off_in_two_parts_is_the_same_on_eight_devices(found):
  assert found["split loss difference"] < 1e-5


def test_every_device_has_its_share_of_the_batch_and_the_whole_state(found):
  assert found["batch shards"] == [[2, 16, 16, 3]]
  assert found["not replicated"] == found["copies that differ"] == 0


def test_nothing_but_sums_goes_between_devices(found):
  assert found["exchanges"] == found["split exchanges"] == ["all-reduce"]


def test_the_state_is_donated(found):
  assert found["not deleted"] == 0


def test_what_one_device_finds_not_finite_all_skip(found):
  assert found["skipped"] == 1 and found["changed"] == 0
  assert found["skipped for"] == "the batch's hr" and found["nothing to find"] is None
