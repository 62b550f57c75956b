"""Compiling for the next image while one is computed."""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import TypeVar

Item = TypeVar("Item")


def planned_ahead(items: Sequence[Item], plan: Callable[[Item], object]) -> Iterator[Item]:
  """Yields items, each when it has been planned; while one is in use, a thread plans the next.

  XLA compiles on one core and leaves Python to others, so that images of many sizes hardly wait.

  Args:
    items: Images, or whatever is planned.
    plan: Compiles for an item. It runs in another thread, for one item at a time, in their order.

  Yields:
    The items. What `plan` raises for an item is raised in its place.
  """
  with futures.ThreadPoolExecutor(1) as thread:
    planned = [thread.submit(plan, item) for item in items[:1]]
    for index, item in enumerate(items):
      planned.pop().result()
      planned = [thread.submit(plan, following) for following in items[index + 1 : index + 2]]
      yield item
