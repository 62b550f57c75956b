"""Deterministic weights for the golden cases: a name, shape and seed give one array anywhere.

The golden cases are full-size models whose parameters are not stored but generated, each from its
own PyTorch state-dict name. `state_dict(spec, seed)` rebuilds them with NumPy alone.
"""

import re
import zlib

import numpy as np


def parameter(name: str, shape: tuple[int, ...], seed: int, gain: float = 1.0) -> np.ndarray:
  """Returns the float32 array for one PyTorch parameter (convolution kernels are OIHW)."""
  rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
  x = rng.standard_normal(shape)
  leaf = name.rsplit(".", 1)[-1]
  if ".invconv." in name:  # [C, C]: a rotation (Cayley transform), then a slight shear
    eye, skew = np.eye(shape[0]), (x - x.T) / np.sqrt(shape[0])
    x = np.linalg.solve(eye - skew, eye + skew) @ (eye + 0.03 * x / np.sqrt(shape[0]))
  elif re.search(
    r"layers\.\d+\.actnorm\.logs$", name
  ):  # flow-step actnorm: offsets the couplings' < 1 scales
    x = 0.19 + 0.05 * x
  elif (
    leaf == "logs"
  ):  # log-scales of zero-initialised convolutions and of convolutions' own actnorm
    x = 0.05 * x
  elif leaf == "bias":
    x = 0.05 * x
  else:  # convolution kernels
    x = gain * x * np.sqrt(1.0 / np.prod(shape[1:]))
  return x.astype(np.float32)


def state_dict(spec: dict[str, list[int]], seed: int) -> dict[str, np.ndarray]:
  """Builds a whole state dict from {name: shape}."""

  def gain(name):
    if name.startswith("RRDB."):
      if "conv_first" in name:  # a residual-in-residual block multiplies its input by about 1.2
        return 0.03
      return 0.15 if ".RDB" in name else 0.7
    if name.replace(".weight", ".logs") in spec:  # a zero-initialised output convolution
      return 0.05
    return 0.5 if ".fAffine2." in name or ".fFeatures2." in name else 1.0

  return {name: parameter(name, tuple(shape), seed, gain(name)) for name, shape in spec.items()}
