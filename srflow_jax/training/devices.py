"""Where a run's arrays lie: every device holds the whole state and an equal part of each batch."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """One row of devices, by default all of all processes, along the axis "data"."""
  return Mesh(np.asarray(jax.devices() if devices is None else devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of the state: a copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """Puts this process's part of a batch on its devices, split along the first axis.

  Returns:
    The global batch; of several processes each gives its part, in the order of their devices.
  """
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  return {
    name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()
  }
