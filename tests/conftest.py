"""Fixtures shared by all tests."""

import json
import os
import pathlib
from importlib import metadata

import numpy as np

# Tests compile far more than they compute. The optimiser's level 0 compiles twice as fast, and what
# one test has compiled another loads, also in the commands that tests start, and in the next run.
# jaxlib 0.10 compiles twice as fast with its older emitters, which later ones do not have.
os.environ["XLA_FLAGS"] = (
  "--xla_backend_optimization_level=0 "
  + "--xla_cpu_use_fusion_emitters=false " * metadata.version("jaxlib").startswith("0.10.")
  + os.environ.get("XLA_FLAGS", "")
)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
  "JAX_COMPILATION_CACHE_DIR",
  str(pathlib.Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled"),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jaxtyping
import pytest

# Annotations of the rooms that compute are checked at every call, array shapes included.
jaxtyping.install_import_hook(["srflow_jax.model", "srflow_jax.ops"], "type_checking.checked")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """Photographs beside the checkout; tests that need them skip without."""
  if not SHARED.is_dir():
    pytest.skip(f"no folder {SHARED.name}/ beside the checkout")
  return SHARED


@pytest.fixture(scope="session")
def golden_metrics() -> tuple[dict[str, np.ndarray], dict]:
  """A photograph's crop, its LR, five stand-in samples, and the challenge's values for them."""
  path = pathlib.Path(__file__).parent / "data" / "metrics_x4"
  with np.load(path.with_suffix(".npz")) as arrays:
    return dict(arrays), json.loads(path.with_suffix(".json").read_text())


@pytest.fixture
def no_pictures(monkeypatch) -> None:
  """Validation has a loss alone: programs for samples and scores would take the longest."""
  from srflow_jax.training.validation import Validation

  monkeypatch.setattr(Validation, "_write_pictures", lambda *_: None)


@pytest.fixture
def always_winograd(monkeypatch) -> None:
  """Small convolutions of three rows are computed as large ones are on a CPU."""
  from srflow_jax.ops import cpu_convolutions

  monkeypatch.setattr(cpu_convolutions, "WINOGRAD_PRODUCTS", 0)
  monkeypatch.setattr(cpu_convolutions, "WINOGRAD_PRODUCTS_OF_PIXEL", 0)


@pytest.fixture
def hr_dir(tmp_path) -> pathlib.Path:
  """A folder of three small HR images."""
  from fakes import write_hr  # not above: only some tests need a model

  write_hr(tmp_path / "hr")
  return tmp_path / "hr"


@pytest.fixture
def lr_dir(tmp_path, hr_dir) -> pathlib.Path:
  """A folder of their LR images."""
  from fakes import write_lr

  write_lr(tmp_path / "lr", hr_dir)
  return tmp_path / "lr"
