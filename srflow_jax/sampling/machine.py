"""What this process may use of the machine: memory and processors, containers' limits included."""

import math
import os
import pathlib

import jax

from srflow_jax.errors import InputError

_ROOT = pathlib.Path("/")


def on_cpu() -> bool:
  """Whether programs run on the host, whose memory they then share."""
  return jax.local_devices()[0].platform == "cpu"


def num_processors() -> int:
  """How many processors this process may use, as `taskset` and cpusets limit them."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def usable_bytes() -> float:
  """Bytes of memory that programs can have at most: the device's, or what the host lets us use.

  Infinity if the device does not say.
  """
  if on_cpu():
    return host_bytes()
  return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)


def host_bytes() -> float:
  """Bytes of the host's memory that this process may use."""
  physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return min(physical, container_bytes())


def default_bytes() -> int:
  """The budget if none is given: half of the host's memory, or three quarters of the device's."""
  usable = usable_bytes()
  if math.isinf(usable):
    raise InputError("this device does not say how much memory it has: give --max_memory_gb")
  return int(usable / 2 if on_cpu() else 0.75 * usable)


def container_bytes(root: pathlib.Path = _ROOT) -> float:
  """The smallest memory limit of the control groups that this process is in; infinity without one.

  Both versions of Linux' control groups are read. A group's limit holds for all groups in it, so
  those above count too. In a container the group's own folder is often mounted as the topmost one.

  Args:
    root: Where `proc` and `sys` lie.
  """
  try:
    lines = (root / "proc/self/cgroup").read_text().splitlines()
  except OSError:
    return math.inf
  limits = [math.inf]
  for line in lines:  # hierarchy:controllers:path
    _, controllers, path = line.split(":", 2)
    if not controllers:  # version 2
      top, name = root / "sys/fs/cgroup", "memory.max"
    elif "memory" in controllers.split(","):
      top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
    else:
      continue
    group = pathlib.PurePosixPath(path.lstrip("/"))
    limits += [_limit(top / folder / name) for folder in (group, *group.parents)]
  return min(limits)


def _limit(path: pathlib.Path) -> float:
  try:
    text = path.read_text().strip()
  except OSError:
    return math.inf
  return float(text) if text.isdigit() else math.inf  # "max"
