"""What a process may use, with and without containers."""

import os

import pytest

from srflow_jax.sampling import machine


@pytest.mark.parametrize(
  "groups, limits, expected",
  [
    ("0::/\n", {"memory.max": "max"}, None),
    ("0::/\n", {"memory.max": "5000"}, 5000),  # a container's own folder is the topmost one
    ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "7000"}, 7000),
    ("0::/a/b\n", {"a/b/memory.max": "3000", "a/memory.max": "7000"}, 3000),
    ("4:memory:/c\n1:cpu:/\n0::/\n", {"memory/c/memory.limit_in_bytes": "4000"}, 4000),
    ("4:memory:/docker/x\n0::/\n", {"memory/memory.limit_in_bytes": "2000"}, 2000),
    ("9:cpu,memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 2**63 - 4096),
    ("4:memory:/c\n", {}, None),
    (None, {"memory.max": "5000"}, None),  # not Linux
  ],
)
def test_memory_limits_of_containers(tmp_path, groups, limits, expected):
  if groups is not None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
  for name, text in limits.items():
    path = tmp_path / "sys/fs/cgroup" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
  found = machine.container_bytes(tmp_path)
  assert found == (float("inf") if expected is None else expected)


def test_the_budget_honours_a_container(monkeypatch):
  monkeypatch.setattr(machine, "container_bytes", lambda: 4e9)
  assert machine.usable_bytes() == 4e9 and machine.default_bytes() == 2e9


def test_processors_that_this_process_may_not_use_do_not_count():
  allowed = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {min(allowed)})
  try:
    assert machine.num_processors() == 1
  finally:
    os.sched_setaffinity(0, allowed)
  assert machine.num_processors() == len(allowed)
