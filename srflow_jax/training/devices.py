"""Where a run's arrays lie: every device holds the whole state and an equal part of each batch."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
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


def put_replicated(mesh: Mesh, tree: Any) -> Any:
  """Puts a tree on every device; every process must give the same."""
  sharding = replicated(mesh)

  def put(leaf: Any) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(
        put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
      )
    return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

  return jax.tree.map(put, tree)
