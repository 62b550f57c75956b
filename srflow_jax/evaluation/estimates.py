"""One image for several samples: their mean, and the sample in their middle.

The mean of samples of a posterior minimises the expected squared error, so it has the best PSNR and
looks smooth. The medoid is a sample, so it looks like one: that of the least summed LPIPS to all
others (L. Kaufman and P. Rousseeuw, "Finding Groups in Data", 1990, for any distance).
"""

import numpy as np

from srflow_jax.evaluation.lpips import pairwise_lpips
from srflow_jax.evaluation.metrics import strips


def mean_image(samples: np.ndarray) -> np.ndarray:
  """The mean of samples, uint8 `[N, H, W, 3]`, rounded: uint8 `[H, W, 3]`."""
  mean = np.empty(samples.shape[1:], np.uint8)
  for rows in strips(len(mean)):
    mean[rows] = np.rint(samples[:, rows].mean(0, dtype=np.float32))
  return mean


def medoid_index(samples: np.ndarray) -> int:
  """Which of samples, uint8 `[N, H, W, 3]`, is their medoid by LPIPS; the first of equal ones."""
  return int(np.argmin(pairwise_lpips(samples).sum(1)))
