"""Files of weights: every naming, container and format, and what is wrong with a damaged one."""

import json
import os
import pathlib
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from models import random_params
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model
from srflow_jax.weights import files, ncnn, rrdb_names
from srflow_jax.weights.checkpoint_file import read_checkpoint
from srflow_jax.weights.published import to_state_dict

NAMINGS = {names.label: names for names in rrdb_names.ALL}


def rrdb_config(scale=4, skip="first_conv"):
  encoder = {"width": 4, "growth": 3, "num_blocks": 2, "taps": (), "global_skip": skip}
  return {"scale": scale, "encoder": encoder, "stages": ()}


def rrdb(scale=4, names=rrdb_names.BASICSR, skip="first_conv"):
  """(model, params, tensors) of a small RRDB."""
  model = build_model(rrdb_config(scale, skip))
  params = random_params(model, dtype=np.float32)
  return model, params, to_state_dict(model, params, names)


def save(path: pathlib.Path, tensors) -> str:
  tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
  safetensors.numpy.save_file(tensors, path)
  return str(path)


def assert_equal_trees(tree, other):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("label", NAMINGS)
def test_rrdb_in_every_naming(label, scale, tmp_path):
  names = NAMINGS[label]
  skip = names.global_skip or "last_block"
  _, params, tensors = rrdb(scale, names, skip)
  file = save(tmp_path / "rrdb.safetensors", tensors)
  given = None if names.global_skip else rrdb_config(scale, skip)  # random weights enlarge nothing
  found = read_checkpoint(file, given)
  assert found.model_config == rrdb_config(scale, skip)
  assert_equal_trees(found.params, params)


def test_names_are_the_published_ones():
  """Those that the issue of each release shows, at full size."""
  for names, expected in {
    "SRFlow": ["RRDB.conv_first", "RRDB.RRDB_trunk.22.RDB3.conv5", "RRDB.upconv2", "RRDB.HRconv"],
    "ESRGAN (new)": ["conv_first", "RRDB_trunk.0.RDB1.conv1", "trunk_conv", "upconv1", "conv_last"],
    "ESRGAN (old)": ["model.0", "model.1.sub.0.RDB1.conv1.0", "model.1.sub.23", "model.8"],
    "BasicSR": ["body.0.rdb1.conv1", "conv_body", "conv_up1", "conv_hr", "conv_last"],
  }.items():
    found = [name for _, name in NAMINGS[names].convolutions(num_blocks=23, num_ups=2)]
    assert set(expected) <= set(found) and len(found) == len(set(found)) == 351


@pytest.mark.parametrize("container", files.CONTAINERS)
def test_containers(container, tmp_path):
  _, params, tensors = rrdb()
  inside = {f"{container}.{name}": array for name, array in tensors.items()}
  beside = {"optimizer.step": np.zeros(1, np.float32)}
  assert_equal_trees(
    read_checkpoint(save(tmp_path / "x.safetensors", inside | beside)).params, params
  )


def test_averaged_parameters_are_preferred(tmp_path):
  _, params, tensors = rrdb()
  both = {f"params_ema.{name}": array for name, array in tensors.items()}
  both |= {f"params.{name}": array + 1 for name, array in tensors.items()}
  assert_equal_trees(read_checkpoint(save(tmp_path / "x.safetensors", both)).params, params)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floating_types(dtype, tmp_path):
  _, params, tensors = rrdb()
  tensors = {name: array.astype(dtype) for name, array in tensors.items()}
  found = read_checkpoint(save(tmp_path / "x.safetensors", tensors)).params
  assert_equal_trees(found, jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), params))


def test_each_wrong_tensor_has_its_line(tmp_path):
  tensors = rrdb()[2]
  del tensors["conv_body.bias"], tensors["body.1.rdb2.conv3.weight"]
  tensors |= {
    "extra": np.zeros(2, np.float32),
    "conv_hr.weight": np.zeros((4, 4, 1, 1), np.float32),
  }
  file = save(tmp_path / "x.safetensors", tensors)
  with pytest.raises(InputError) as error:
    read_checkpoint(file)
  assert str(error.value).split("\n") == [
    f"{file}: missing tensor body.1.rdb2.conv3.weight",
    f"{file}: missing tensor conv_body.bias",
    f"{file}: surplus tensor extra",
    f"{file}: tensor conv_hr.weight has shape (4, 4, 1, 1), the model's is (4, 4, 3, 3)",
  ]


def _broken(kind: str, tmp_path: pathlib.Path) -> pathlib.Path:
  path = tmp_path / "x.safetensors"
  tensors = rrdb()[2]
  match kind:
    case "integers":
      save(path, tensors | {"conv_hr.bias": np.zeros(4, np.int32)})
    case "not finite":
      save(path, tensors | {"conv_hr.bias": np.full(4, np.nan, np.float32)})
    case "no sizes":
      del tensors["conv_first.weight"]
      save(path, tensors)
    case "not an RRDB":
      save(path, {"layer1.0.weight": np.zeros(3, np.float32)})
    case "two of them":
      save(path, tensors | rrdb(names=rrdb_names.ESRGAN_OLD)[2])
    case "truncated":
      save(path, tensors)
      path.write_bytes(path.read_bytes()[:-8])
    case "not tensors":
      path.write_bytes(b"\x89PNG and so on, of some length")
    case "empty":
      path.write_bytes(b"")
    case "missing":
      pass
    case "suffix":
      path = tmp_path / "x.onnx"
      path.write_bytes(b"")
    case "folder":
      path.mkdir()
  return path


@pytest.mark.parametrize(
  "kind, message",
  [
    ("integers", "tensor conv_hr.bias is of type int32"),
    ("not finite", "tensor conv_hr.bias has values that are not finite"),
    ("no sizes", "missing tensor conv_first.weight"),
    ("not an RRDB", r"no RRDB that is known by its names: layer1\.0\.weight"),
    ("two of them", r"one in ESRGAN \(old\)'s names and one in BasicSR's names"),
    ("truncated", "not a whole .safetensors"),
    ("not tensors", "not a whole .safetensors"),
    ("empty", "not a whole .safetensors"),
    ("missing", "no such file"),
    ("suffix", "must be one of .safetensors, .pth"),
    ("folder", "is a folder"),
  ],
)
def test_a_file_that_cannot_be_used(kind, message, tmp_path):
  path = _broken(kind, tmp_path)
  with pytest.raises(InputError, match=message) as error:
    read_checkpoint(str(path))
  assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_folder_or_name_that_there_is_not(tmp_path):
  with pytest.raises(InputError, match="runs/rrdb: no such file or folder, and none of realsr, "):
    read_checkpoint(str(tmp_path / "runs/rrdb"))


# PyTorch's files.


def test_pth_without_pytorch(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  (tmp_path / "x.pth").write_bytes(b"")
  with pytest.raises(InputError, match=r"x\.pth: PyTorch reads it: pip install torch"):
    files.read(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("container", ["", *files.CONTAINERS])
@pytest.mark.parametrize("half", [False, True])
def test_pth(container, half, tmp_path):
  torch = pytest.importorskip("torch")
  _, params, tensors = rrdb(names=rrdb_names.ESRGAN_OLD)
  state = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
  if half:
    state = {name: torch.nn.Parameter(tensor.bfloat16()) for name, tensor in state.items()}
    params = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), params)
  content = {container: state, "iteration": 7, "name": "x"} if container else state
  torch.save(content, tmp_path / "x.pth")
  assert_equal_trees(read_checkpoint(str(tmp_path / "x.pth")).params, params)


class Malicious:
  """Unpickling it runs a command."""

  def __init__(self, path: pathlib.Path) -> None:
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_pth_cannot_run_code(tmp_path):
  torch = pytest.importorskip("torch")
  torch.save({"conv_first.weight": Malicious(tmp_path / "ran")}, tmp_path / "x.pth")
  with pytest.raises(InputError, match=r"x\.pth: not a .pth of tensors alone") as error:
    files.read(str(tmp_path / "x.pth"))
  assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_damaged_pth(tmp_path):
  pytest.importorskip("torch")
  (tmp_path / "x.pth").write_bytes(b"hello")
  with pytest.raises(InputError, match=r"x\.pth: not a .pth"):
    files.read(str(tmp_path / "x.pth"))


# ncnn's files.


def write_ncnn(folder: pathlib.Path, skip="first_conv", half=True) -> tuple[pathlib.Path, dict]:
  """A small RRDB x2 as ncnn keeps it, sums inside blocks left out; its graph, our parameters."""
  _, params, tensors = rrdb(scale=2, skip=skip)
  lines, data, before = ["Input in 0 1 data"], b"", "data"
  for path, name in rrdb_names.BASICSR.convolutions(2, 1):
    kernel, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    own = ".".join(map(str, path[1:]))
    if own == "upconvs_0":
      lines.append(f"Interp up 1 1 {before} enlarged 0=1 1=2.0 2=2.0")
      before = "enlarged"
    sizes = f"0={len(bias)} 1=3 4=1 5=1 6={kernel.size}"
    if own == "trunk_conv":  # the last block's sum is seen twice
      lines.append(f"Split s1 1 2 {before} body_a body_b")
      before = "body_a"
    lines.append(f"Convolution {name} 1 1 {before} {own} {sizes}")
    before = own
    if own == "conv_first":
      lines.append("Split s0 1 2 conv_first first_a first_b")
      before = "first_a"
    if own == "trunk_conv":
      other = "first_b" if skip == "first_conv" else "body_b"
      lines.append(f"BinaryOp add 2 1 {other} trunk_conv own 0=0")
      before = "own"
    weights = kernel.astype("<f2" if half else "<f4").tobytes()
    tag = 0x01306B47 if half else 0
    data += tag.to_bytes(4, "little") + weights + bytes(-len(weights) % 4)
    data += bias.astype("<f4").tobytes()
  (folder / "x.param").write_text("\n".join(["7767517", f"{len(lines)} 99", *lines]) + "\n")
  (folder / "x.bin").write_bytes(data)
  if half:
    params = jax.tree.map(
      lambda x: x.astype(np.float16).astype(np.float32) if x.ndim >= 4 else x, params
    )
  return folder / "x.param", params


@pytest.mark.parametrize("skip", ["first_conv", "last_block"])
@pytest.mark.parametrize("half", [True, False])
def test_ncnn(skip, half, tmp_path):
  """The graph shows the skip, whatever names say."""
  graph, params = write_ncnn(tmp_path, skip, half)
  for path in ncnn.pair(graph):
    found = read_checkpoint(str(path))
    assert found.model_config == rrdb_config(2, skip)
    assert_equal_trees(found.params, params)


@pytest.mark.parametrize(
  "suffix, change, message",
  [
    (".bin", lambda data: data[:-4], "x.bin: ends early"),
    (".bin", lambda data: data + b"1234", "x.bin: 4 bytes more"),
    (".bin", lambda data: b"\1" + data[1:], "x.bin: weights stored as 0x1306b01"),
    (".param", lambda data: data[:-90], "x.param: not a whole ncnn graph"),
    (".param", lambda data: data.replace(b"7767517", b"1"), "x.param: not a whole ncnn graph"),
    (".param", lambda data: data.replace(b"Interp", b"PReLU"), "x.param: not an RRDB: has PReLU"),
    (".param", lambda data: data.replace(b"BinaryOp", b"Concat"), "no skip around its trunk"),
    (".param", lambda data: data.replace(b" 5=1", b" 5=0"), "not an RRDB: convolution with"),
  ],
)
def test_damaged_ncnn(suffix, change, message, tmp_path):
  path = write_ncnn(tmp_path)[0].with_suffix(suffix)
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(InputError, match=message):
    files.read(str(path))


def test_half_of_ncnns_pair(tmp_path):
  path = write_ncnn(tmp_path)[0]
  path.with_suffix(".bin").unlink()
  with pytest.raises(InputError, match=r"x\.bin: no such file; x\.param needs it"):
    files.read(str(path))


def test_write_is_whole_or_not_at_all(tmp_path):
  tensors = rrdb()[2]
  files.write(tmp_path / "x.safetensors", tensors, rrdb_config())
  found, facts = files.read(str(tmp_path / "x.safetensors"))
  assert_equal_trees(found, tensors)
  assert facts == {"model": json.loads(json.dumps(rrdb_config()))}
  with pytest.raises(InputError, match="cannot be written"):
    files.write(tmp_path / "none" / "x.safetensors", tensors, rrdb_config())
  assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
