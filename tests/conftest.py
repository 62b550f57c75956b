"""Fixtures shared by all tests."""

import pathlib

import pytest

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of golden files and photographs beside the checkout; tests that need it skip without."""
  if not SHARED.is_dir():
    pytest.skip(f"no folder {SHARED.name}/ beside the checkout")
  return SHARED
