"""Random damage to files of weights: each is read, or refused with a line; none hangs."""

import json
import pathlib
import re

import numpy as np
import pytest

from srflow_jax.errors import InputError
from srflow_jax.weights import files
from srflow_jax.weights.checkpoint_file import read_checkpoint
from test_weights import small_config, small_flow
from test_weights_files import rrdb, rrdb_config, write_ncnn
from time_limits import time_limit

SECONDS = 20  # that a file may take; whole ones take less than one

# What stands in for a value of a header or a word of a graph.
VALUES = [None, True, False, -1, 0, 1, 3, 2**31, 2**63, 10**30, 1.5, float("nan"), float("inf")]
VALUES += ["", "4", "last_block", [], [[]], {}, {"a": {}}, [0] * 50, "x" * 1000]
WORDS = ["", "-1", "0", "x", "1.5", "99999999999", "9" * 5000, "=", "0=", "0=-1", "Split", "\xff"]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
  """Bytes with a few changed, cut out or doubled, often near the start, where headers are."""
  data = bytearray(data)
  for _ in range(rng.integers(1, 5)):
    reach = len(data) if rng.random() < 0.5 else min(len(data), 2000)
    at = int(rng.integers(reach)) if reach else 0
    match rng.integers(5):
      case 0:
        data[at : at + 1] = bytes([rng.integers(256)])
      case 1:
        data[at : at + 1] = bytes([data[at] ^ (1 << int(rng.integers(8)))]) if data else b"\0"
      case 2:
        del data[at : at + int(rng.integers(1, 20))]
      case 3:
        data[at:at] = data[at : at + int(rng.integers(1, 20))]
      case 4:
        del data[at:]
  return bytes(data)


def replaced(block, rng: np.random.Generator):
  """A JSON value with one value somewhere inside replaced, or a key dropped or added."""
  if not isinstance(block, dict | list) or not block or rng.random() < 0.15:
    return VALUES[rng.integers(len(VALUES))]
  block = block.copy()
  key = rng.choice(list(block)) if isinstance(block, dict) else int(rng.integers(len(block)))
  if rng.random() < 0.1:
    del block[key]
  elif isinstance(block, dict) and rng.random() < 0.05:
    block["extra"] = VALUES[rng.integers(len(VALUES))]
  else:
    block[key] = replaced(block[key], rng)
  return block


def header_edited(data: bytes, rng: np.random.Generator) -> bytes:
  """A `.safetensors` whose header, JSON after 8 bytes of its length, has a value replaced."""
  length = int.from_bytes(data[:8], "little")
  header = json.loads(data[8 : 8 + length])
  if rng.random() < 0.6 and files.MODEL_KEY in header["__metadata__"]:
    model = json.loads(header["__metadata__"][files.MODEL_KEY])
    for _ in range(rng.integers(1, 3)):
      model = replaced(model, rng)
    header["__metadata__"][files.MODEL_KEY] = json.dumps(model)
  elif rng.random() < 0.5:  # a tensor under another name
    name = rng.choice([name for name in header if name != "__metadata__"])
    digits = str(rng.choice(["99999999", "7", "9" * 400]))
    header[re.sub(r"\d+", digits, str(name), count=1)] = header.pop(name)
  else:
    header = replaced(header, rng)
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + data[8 + length :]


def words_edited(data: bytes, rng: np.random.Generator) -> bytes:
  """A graph with words replaced, or lines dropped or doubled."""
  lines = data.split(b"\n")
  for _ in range(rng.integers(1, 4)):
    at = int(rng.integers(len(lines)))
    words = lines[at].split(b" ")
    words[rng.integers(len(words))] = WORDS[rng.integers(len(WORDS))].encode("latin-1")
    lines[at] = b" ".join(words)
    if rng.random() < 0.1:
      lines.insert(at, lines[rng.integers(len(lines))])
    if rng.random() < 0.1:
      del lines[at]
  return b"\n".join(lines)


def _originals(kind: str, folder: pathlib.Path) -> list[pathlib.Path]:
  """Files to damage: of each kind all that its reader reads."""
  match kind:
    case "flow":
      files.write(
        folder / "x.safetensors", small_flow("x4_da")[2], small_config("x4_da").model.to_dict()
      )
      return [folder / "x.safetensors"]
    case "rrdb":
      files.write(folder / "x.safetensors", rrdb()[2], rrdb_config())
      return [folder / "x.safetensors"]
    case "ncnn":
      path, _ = write_ncnn(folder)
      return [path, path.with_suffix(".bin")]
    case "pth" | "old pth":
      torch = pytest.importorskip("torch")
      state = {name: torch.from_numpy(array.copy()) for name, array in rrdb()[2].items()}
      torch.save({"params": state}, folder / "x.pth", _use_new_zipfile_serialization=kind == "pth")
      return [folder / "x.pth"]


CHANGES = {
  "flow": [header_edited, header_edited, flipped],
  "rrdb": [header_edited, flipped],
  "ncnn": [words_edited, flipped],
  "pth": [flipped],
  "old pth": [flipped],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_random_damage_is_read_or_refused(kind, tmp_path):
  rng = np.random.default_rng(sum(map(ord, kind)))
  paths = _originals(kind, tmp_path)
  whole = {path: path.read_bytes() for path in paths}
  read_checkpoint(str(paths[0]))
  outcomes = {"read": 0, "refused": 0}
  for number in range(400):
    path = paths[rng.integers(len(paths))]
    change = CHANGES[kind][number % len(CHANGES[kind])]
    if path.suffix == ".bin":
      change = flipped
    for other, data in whole.items():
      other.write_bytes(data)
    path.write_bytes(change(whole[path], rng))
    try:
      with time_limit(SECONDS):
        read_checkpoint(str(paths[0]))
      outcomes["read"] += 1
    except InputError as error:
      outcomes["refused"] += 1
      assert all(line.startswith(str(tmp_path)) for line in str(error).split("\n")), str(error)
    except BaseException as error:
      raise AssertionError(f"{kind}, case {number}, {change.__name__}") from error
  print(kind, outcomes)
  assert outcomes["refused"] > 100  # the changes reach what is read
  assert sorted(tmp_path.iterdir()) == sorted(paths)
