"""Opens whatever `config.data.train_dir` and `val_dir` name."""

from typing import Any

from srflow_jax.data.folders import FolderSource, photographs
from srflow_jax.data.pairs import PairSource, lr_patch_size


def open_source(data_config: Any, scale: int, split: str) -> PairSource:
  """The training or validation images, checked.

  Args:
    data_config: `config.data`.
    scale: HR pixels per LR pixel.
    split: "train" or "validation". Without a `val_dir`, validation uses the bundled photographs
      kept for it, whatever training uses.

  Returns:
    A source of pairs at least as large as the patch.

  Raises:
    InputError: naming the file or folder that cannot be used.
  """
  spec = data_config.train_dir if split == "train" else data_config.val_dir
  patch = lr_patch_size(data_config, scale) * scale
  # Each worker process has its own cache, so they share the bytes allowed.
  cache_bytes = data_config.cache_mb * 2**20 // max(data_config.num_workers, 1)
  return FolderSource(photographs(spec, split), scale, patch, cache_bytes)
