"""Damaged and hostile files of weights: a table of cases for each format, each with its line."""

import json
import os
import pathlib
import stat

import numpy as np
import pytest
import safetensors.numpy

from srflow_jax.errors import InputError
from srflow_jax.weights import files
from srflow_jax.weights.checkpoint_file import read_checkpoint
from srflow_jax.weights.transfer import import_weights
from test_weights import small_config, small_flow
from test_weights_files import rrdb, rrdb_config, save, write_ncnn


def refused(path: pathlib.Path, message: str, read=read_checkpoint) -> None:
  """Reading it gives one line that begins with the file's name."""
  with pytest.raises(InputError, match=message) as error:
    read(str(path))
  assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


# Headers.


def nested(block, *keys, **changes):
  """A block with fields changed inside; a value of `...` deletes its field."""
  block = json.loads(json.dumps(block))
  inner = block
  for key in keys:
    inner = inner[key]
  for key, value in changes.items():
    if value is ...:
      del inner[key]
    else:
      inner[key] = value
  return block


ENCODER, STAGE, NET = ("encoder",), ("stages", 0), ("conditioner",)
HEADERS = [
  ((), {"scale": 4.0}, "model.scale is 4.0: it must be a whole number"),
  ((), {"scale": "4"}, "model.scale is '4': it must be a whole number"),
  ((), {"scale": None}, "model.scale is None"),
  ((), {"scale": True}, "model.scale is True"),
  ((), {"scale": 3}, "config.model.scale is 3: one of 2, 4, 8, 16"),
  ((), {"scale": 8}, "model.scale is 8, by the tensors 4"),
  ((), {"scale": ...}, "missing key config.model.scale"),
  ((), {"encoder": ...}, "missing key config.model.encoder"),
  ((), {"encoder": None}, "model.encoder is None: it must be a block"),
  ((), {"encoder": [1]}, "model.encoder is .1.: it must be a block"),
  ((), {"stages": ...}, "missing key config.model.stages"),
  ((), {"stages": {}}, "model.stages is {}: it must be a list"),
  ((), {"stages": "ab"}, "model.stages is 'ab': it must be a list"),
  ((), {"stages": [3]}, r"model.stages\[0\] is 3: it must be a block"),
  ((), {"conditioner": ...}, r"missing key config.model.step\[2\].net"),
  ((), {"conditioner": 5}, "model.conditioner is 5: it must be a block"),
  ((), {"colour": 1}, "unknown key config.model.colour"),
  (
    ENCODER,
    {"num_blocks": 10_000_000},
    "num_blocks is 10000000: it must be at least 1 and at most 1024",
  ),
  (ENCODER, {"num_blocks": 2.0}, "num_blocks is 2.0: it must be a whole number"),
  (ENCODER, {"num_blocks": -1}, "num_blocks is -1: it must be at least 1"),
  (ENCODER, {"num_blocks": 10**30}, "num_blocks is 10+: it must fit 64 bits"),
  (ENCODER, {"width": 10**12}, "width is 1000000000000: it must be at least 1 and at most 4096"),
  (ENCODER, {"width": 0}, "width is 0"),
  (ENCODER, {"growth": "3"}, "growth is '3': it must be a whole number"),
  (ENCODER, {"growth": ...}, "missing key config.model.encoder.growth"),
  (ENCODER, {"taps": 1}, "taps is 1: it must be a list"),
  (ENCODER, {"taps": [None]}, r"taps\[0\] is None"),
  (ENCODER, {"taps": [7]}, "taps .* lie in"),
  (ENCODER, {"global_skip": 1}, "global_skip is 1: it must be a text"),
  (ENCODER, {"global_skip": "up"}, "global_skip is 'up'"),
  (ENCODER, {"deep": {}}, "unknown key config.model.encoder.deep"),
  (STAGE, {"steps": 1_000_000_000}, "steps is 1000000000: it must be at least 0 and at most 1024"),
  (STAGE, {"steps": "2"}, "steps is '2': it must be a whole number"),
  (STAGE, {"steps": -2}, "-2"),
  (STAGE, {"squeeze": 2**40}, "squeeze is 1099511627776: it must be one of 1, 2"),
  (STAGE, {"squeeze": 3}, "squeeze is 3: it must be one of 1, 2"),
  (STAGE, {"split": "no"}, "split is 'no': it must be True or False"),
  (STAGE, {"transition_steps": ...}, "missing key config.model.stages.0..transition_steps"),
  (NET, {"num_hidden": 10**9}, "num_hidden is 1000000000: it must be at least 0 and at most"),
  (NET, {"width": 1e9}, "width is 1000000000.0: it must be a whole number"),
  (NET, {"hidden_kernel": 5}, "hidden_kernel"),
  (NET, {"normalize": 1}, "normalize is 1: it must be True or False"),
]


@pytest.fixture(scope="module")
def flow_tensors():
  return small_flow("x4_da")[2]


@pytest.mark.parametrize("keys, changes, message", HEADERS)
def test_headers_block(keys, changes, message, flow_tensors, tmp_path):
  block = nested(small_config("x4_da").model.to_dict(), *keys, **changes)
  files.write(tmp_path / "x.safetensors", flow_tensors, block)
  refused(tmp_path / "x.safetensors", message)


@pytest.mark.parametrize(
  "text, message",
  [
    ("", "header's srflow_jax.model is damaged"),
    ("{", "header's srflow_jax.model is damaged"),
    ("7", "model is 7: it must be a block"),
    ("null", "model is None: it must be a block"),
    ("[]", r"model is \[\]: it must be a block"),
    ('"model"', "model is 'model': it must be a block"),
    ("{}", "missing key config.model.scale"),
    ("[" * 100_000, "header's srflow_jax.model is damaged"),
    ("[" * 900 + "]" * 900, "header's srflow_jax.model is damaged"),
    ("1" * 5000, "header's srflow_jax.model is damaged"),
    ('{"scale": NaN}', "model"),
  ],
)
def test_headers_text(text, message, tmp_path):
  header = {files.MODEL_KEY: text}
  safetensors.numpy.save_file(rrdb()[2], tmp_path / "x.safetensors", header)
  refused(tmp_path / "x.safetensors", message)


def test_a_header_of_another_model_names_the_tensors(flow_tensors, tmp_path):
  """Within the tensors' sizes, the wrong ones are listed, a line each."""
  path = tmp_path / "x.safetensors"
  block = nested(small_config("x4_da").model.to_dict(), *STAGE, steps=3)
  files.write(path, flow_tensors, block)
  with pytest.raises(InputError, match=r"missing tensor flowUpsamplerNet\.layers\.") as error:
    read_checkpoint(str(path))
  assert all(line.startswith(str(path)) for line in str(error.value).split("\n"))


# Tensors that no model has.


@pytest.mark.parametrize(
  "name, shape, message",
  [
    (
      "body.99999999.rdb1.conv1.weight",
      (3, 4, 3, 3),
      "num_blocks is 100000000: it must be at least 1 and at most 1024",
    ),
    ("body.9" + "9" * 5000 + ".rdb1.conv1.weight", (3, 4, 3, 3), "surplus tensor body.999"),
    ("conv_first.weight", (3,), r"conv_first.weight has shape \(3,\): not a convolution's"),
    ("conv_first.weight", (0, 3, 3, 3), "is empty"),
    ("conv_first.weight", (4, 10**15, 0, 3), "is empty"),
    ("flowUpsamplerNet.layers.4000.x", (1,), "layers.4000 is the 1. layer only"),
    ("flowUpsamplerNet.layers.0.invconv.weight", (7, 7), "7 channels: no squeeze makes them of 3"),
    ("flowUpsamplerNet.layers.0.x", (1,), "missing tensor flowUpsamplerNet.layers.0.invconv.weig"),
    ("flowUpsamplerNet.layers." + "9" * 5000 + ".x", (1,), "no tensor flowUpsamplerNet.layers.NUM"),
    (
      "flowUpsamplerNet.layers.0.affine.x",
      (1,),
      "missing tensor flowUpsamplerNet.layers.0.invconv",
    ),
  ],
)
def test_tensors_that_no_model_has(name, shape, message, tmp_path):
  tensors = rrdb()[2] | {name: np.zeros(shape, np.float32)}
  refused(pathlib.Path(save(tmp_path / "x.safetensors", tensors)), message)


@pytest.mark.parametrize("container", ["", "params_ema.", "state_dict."])
def test_data_parallels_prefix(container, tmp_path):
  tensors = rrdb()[2]
  renamed = {f"{container}module.{name}": array for name, array in tensors.items()}
  found, _ = files.read(save(tmp_path / "x.safetensors", renamed))
  assert found.keys() == tensors.keys()


# What the system says.


def test_files_that_cannot_be_opened(tmp_path):
  os.mkfifo(tmp_path / "fifo.safetensors")
  refused(tmp_path / "fifo.safetensors", "not a regular file")
  (tmp_path / "file").write_bytes(b"")
  refused(tmp_path / "file" / "x.pth", "cannot be read: Not a directory")
  refused(tmp_path / f"{'x' * 300}.pth", "cannot be read: File name too long")
  (tmp_path / "loop.bin").symlink_to("loop.bin")
  refused(tmp_path / "loop.param", "no such file")
  with pytest.raises(InputError, match="cannot be read: embedded null"):
    files.read("x\0.safetensors")
  with pytest.raises(InputError, match="cannot be read: File name too long"):
    import_weights("x.safetensors", str(tmp_path / ("x" * 300)), None, {})


@pytest.mark.parametrize("mode", [stat.S_IRUSR, 0])
def test_files_of_another_user(mode, tmp_path):
  path = pathlib.Path(save(tmp_path / "x.safetensors", rrdb()[2]))
  path.chmod(mode)
  root = os.geteuid() == 0  # may read all: be another user for a moment
  if not root and mode:
    pytest.skip("needs root, to be another user")
  if root:
    os.seteuid(65534)
  try:
    refused(path, "cannot be read: Permission denied")
  finally:
    if root:
      os.seteuid(0)


# PyTorch's files.


class _Other:
  """Of a class that is no tensor."""


def _torch_content(kind: str, torch):
  tensors = {name: torch.from_numpy(array.copy()) for name, array in rrdb()[2].items()}
  bias = tensors["conv_hr.bias"]
  match kind:
    case "self-reference":
      tensors["self"] = tensors
    case "self as container":
      return tensors | {"params": tensors} | {"deep": {"params": {"a": [tensors]}}}
    case "container that is itself":
      tensors["params"] = tensors
    case "sparse":
      tensors["conv_hr.bias"] = bias.to_sparse()
    case "expanded":
      tensors["conv_hr.bias"] = torch.zeros(1).expand(10**13)
    case "meta":
      tensors["conv_hr.bias"] = torch.empty(4, device="meta")
    case "quantized":
      tensors["conv_hr.bias"] = torch.quantize_per_tensor(bias, 0.1, 0, torch.qint8)
    case "complex":
      tensors["conv_hr.bias"] = bias.to(torch.complex64)
    case "integers":
      tensors["conv_hr.bias"] = bias.to(torch.int64)
    case "not finite":
      tensors["conv_hr.bias"] = bias / 0
    case "empty":
      tensors["conv_hr.bias"] = torch.zeros(0)
    case "list":
      return list(tensors.values())
    case "tensor":
      return bias
    case "number":
      return 7
    case "class":
      return _Other()
    case "numbers as names":
      return dict(enumerate(tensors.values()))
    case "none":
      return {}
    case "deep":
      content = tensors
      for _ in range(400):
        content = {"params": content}
      return content
    case "module.":
      return {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}
    case "transposed":
      kernel = tensors["conv_hr.weight"]
      tensors["conv_hr.weight"] = kernel.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2)
  return tensors


@pytest.mark.parametrize(
  "kind, message",
  [
    ("self-reference", None),  # a state dict all the same
    ("self as container", None),
    ("container that is itself", None),
    ("module.", None),
    ("transposed", None),
    ("sparse", "tensor conv_hr.bias is sparse or quantized, not a plain one"),
    ("quantized", "tensor conv_hr.bias is sparse or quantized, not a plain one|not a .pth of ten"),
    ("expanded", r"tensor conv_hr.bias of shape \(10000000000000,\) repeats fewer values"),
    ("meta", "tensor conv_hr.bias has no values: it is on the device meta"),
    ("complex", "tensor conv_hr.bias is of type complex64, not floats"),
    ("integers", "tensor conv_hr.bias is of type int64, not floats"),
    ("not finite", "tensor conv_hr.bias has values that are not finite"),
    ("empty", r"tensor conv_hr.bias of shape \(0,\) is empty"),
    ("list", "holds a list, not tensors by name"),
    ("tensor", "holds a Tensor, not tensors by name"),
    ("number", "holds a int, not tensors by name"),
    ("class", "not a .pth of tensors alone"),
    ("numbers as names", "no RRDB that is known by its names: 0, 1, 2"),
    ("none", "no RRDB that is known by its names: none at all"),
    ("deep", "no RRDB that is known by its names: none at all|not a .pth of tensors alone"),
  ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pth_of_strange_things(kind, message, zipped, tmp_path):
  torch = pytest.importorskip("torch")
  path = tmp_path / "x.pth"
  content = _torch_content(kind, torch)
  try:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
  except NotImplementedError:
    pytest.skip("PyTorch does not write it")
  if message is None:
    read_checkpoint(str(path))
  else:
    refused(path, message)


def test_pth_that_would_unpack_to_more(tmp_path):
  torch = pytest.importorskip("torch")
  import zipfile

  torch.save({"x": torch.zeros(100_000)}, tmp_path / "y.pth")
  with zipfile.ZipFile(tmp_path / "y.pth") as old:
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as new:
      for member in old.infolist():
        new.writestr(member.filename, old.read(member))
  refused(tmp_path / "x.pth", "a compressed or damaged archive")


# ncnn's files.


@pytest.mark.parametrize(
  "old, new, message",
  [
    ("conv_first 1 1 ", "conv_first -1 1 ", "not a whole ncnn graph: see line 4"),
    ("conv_first 1 1 ", "conv_first 1 -1 ", "not a whole ncnn graph: see line 4"),
    ("conv_first 1 1 ", "conv_first one 1 ", "not a whole ncnn graph: see line 4"),
    ("conv_first 1 1 ", "conv_first 1.5 1 ", "not a whole ncnn graph: see line 4"),
    ("conv_first 1 1 ", "conv_first 1 99999999999 ", "not a whole ncnn graph: see line 4"),
    ("conv_first 1 1 ", "conv_first 0 1 ", "not a whole ncnn graph|Convolution of 0 inputs"),
    ("conv_first 1 1 ", "conv_first 1 0 ", "not a whole ncnn graph: see line 4"),
    ("conv_first 1 1 data", "conv_first 1 1 nothing", "not a whole ncnn graph: see line 4"),
    ("Split s0 1 2 conv_first", "Split s0 0 2 conv_first", "Split of 0 inputs|see line"),
    ("Input in 0 1 data", "Input in 0 0", "not a whole ncnn graph: see line 3"),
    ("Input in 0 1 data", "Input in 0 1", "not a whole ncnn graph: see line 3"),
    ("Input in 0 1 data", "Input", "not a whole ncnn graph: see line 3"),
    ("Input in 0 1 data", "", "not a whole ncnn graph: see line 3"),
    (" 0=4 ", " 0=-4 ", "convolution with 0=-4"),
    (" 0=4 ", " 0=0 ", "convolution with 0=0"),
    (" 0=4 ", " 0=four ", "convolution with 0=four"),
    (" 0=4 ", " 0=99999999999999999999 ", "convolution with 0=999"),
    (" 0=4 ", " 0:4 ", "not a whole ncnn graph|not an RRDB"),
    (" 1=3 ", " 1=0 ", "convolution with 0=4 1=0"),
    (" 1=3 ", " 1=-3 ", "convolution with 0=4 1=-3"),
    (" 5=1 ", " 5=-1 ", "not an RRDB: convolution with"),
    (" 6=", " 6=-", "not an RRDB: convolution with"),
    (" 6=", " 6=x", "not an RRDB: convolution with"),
    (" 6=", " 6=10800", "x.bin: ends early"),
    ("7767517\n", "7767517\n-", "not a whole ncnn graph"),
    ("7767517\n", "7767517\nmany ", "not a whole ncnn graph"),
    ("7767517\n", "7767517\n" + "9" * 5000, "not a whole ncnn graph"),
    ("7767517\n", "", "not a whole ncnn graph"),
    ("Interp", "Interp2", "not an RRDB: has Interp2"),
    ("BinaryOp add 2 1", "BinaryOp add 1 2", "no skip around its trunk"),
    ("Input", "\xe4nput", "not a whole ncnn graph"),
  ],
)
def test_ncnn_graphs(old, new, message, tmp_path):
  path, _ = write_ncnn(tmp_path)
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  with pytest.raises(InputError, match=message) as error:
    read_checkpoint(str(path))
  assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_the_header_of_what_is_given_is_taken_alone_as_it_was_written(tmp_path):
  """What is right passes: the table above refuses for its changes, and for nothing else."""
  files.write(tmp_path / "x.safetensors", rrdb()[2], rrdb_config())
  assert read_checkpoint(str(tmp_path / "x.safetensors")).model_config == json.loads(
    json.dumps(rrdb_config())
  )
