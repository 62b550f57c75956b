"""A bounded memory of decoded images."""

import collections
import threading
from collections.abc import Callable, Hashable

from srflow_jax.data.pairs import Pair


class PairCache:
  """Pairs in memory, the least recently used dropped first; each process has its own."""

  def __init__(self, max_bytes: int) -> None:
    """Holds pixels of at most `max_bytes`; a pair larger than that is not held at all."""
    self._max_bytes = max_bytes
    self._bytes = 0
    self._pairs: collections.OrderedDict[Hashable, Pair] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __reduce__(self) -> tuple:
    return (PairCache, (self._max_bytes,))

  def get(self, key: Hashable, load: Callable[[], Pair]) -> Pair:
    """The pair of a key, from memory or, if it is not there, from `load`."""
    with self._lock:
      if key in self._pairs:
        self._pairs.move_to_end(key)
        return self._pairs[key]
    pair = load()
    with self._lock:
      if key not in self._pairs and pair.nbytes <= self._max_bytes:
        self._pairs[key] = pair
        self._bytes += pair.nbytes
        while self._bytes > self._max_bytes:
          self._bytes -= self._pairs.popitem(last=False)[1].nbytes
    return pair
