"""Published weights in and out of workdirs, and what an encoder starts from."""

import importlib
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import safetensors

from configs import rrdb_x4, workdir, x4_da
from models import VARIANTS, random_params, small_model
from srflow_jax import checkpoints, evaluation
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model
from srflow_jax.model.features import Given
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.runs import config_differences, write_config
from srflow_jax.sampling.sampler import Sampler
from srflow_jax.training.loop import train
from srflow_jax.training.optimizer import learning_rate_schedule
from srflow_jax.weights import files, published, rrdb_names
from srflow_jax.weights.checkpoint_file import read_checkpoint
from srflow_jax.weights.published import to_state_dict
from srflow_jax.weights.recognise import published_taps, recognise
from srflow_jax.weights.starting import starting_params
from srflow_jax.weights.transfer import export_weights, import_weights
from test_weights_files import assert_equal_trees, rrdb_config, save

DATA = pathlib.Path(__file__).parent / "data"
SHIPPED = [f"{scale}_{variant}" for scale in ("x4", "x8") for variant in VARIANTS]


def small_config(name: str) -> ml_collections.ConfigDict:
  """The configuration whose model is `small_model(name)`."""
  config = importlib.import_module(f"configs.{name}").get_config()
  model = small_model(name)
  config.model.encoder.update(width=4, growth=3, num_blocks=2, taps=(0, 1))
  net = model.stage_specs[0].step[-1].get("net")
  config.model.conditioner.update(width=net.get("width"), num_hidden=net.get("num_hidden"))
  config.model.stages = tuple(
    stage | {"steps": spec.steps}
    for stage, spec in zip(config.model.stages, model.stage_specs, strict=True)
  )
  return config


def sizes(model: dict) -> dict:
  """What tensors show of a `model` block: all but the kinds of its parts."""
  shown = {key: model[key] for key in ("scale", "encoder", "conditioner", "stages")}
  for part in ("encoder", "conditioner"):
    shown[part] = {key: value for key, value in shown[part].items() if key != "kind"}
  return plain(shown)


def small_rrdb_config(skip: str = "last_block") -> ml_collections.ConfigDict:
  config = rrdb_x4.get_config()
  config.model = ml_collections.ConfigDict(rrdb_config(4, skip))
  return config


def small_flow(name: str):
  """(config, params, published tensors)."""
  config = small_config(name)
  model = build_model(config.model)
  params = random_params(model, dtype=np.float32)
  return config, params, to_state_dict(model, params)


def plain(value):
  return json.loads(json.dumps(value))


# Recognition.


@pytest.mark.parametrize("name", SHIPPED)
def test_variants_are_recognised_by_names_and_shapes(name):
  config, _, tensors = small_flow(name)
  found = recognise(tensors, rrdb_names.recognise_names(tensors))
  assert found["encoder"].pop("taps") == (None, None)
  expected = sizes(config.model.to_dict())
  del expected["encoder"]["taps"]
  assert plain(found) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_size_variants_are_recognised(variant):
  meta = json.loads((DATA / f"{variant}_x4.json").read_text())
  tensors = {n: np.broadcast_to(np.float32(0), s) for n, s in meta["state_dict"].items()}
  tensors["flowUpsamplerNet.f.0.weight"] = np.zeros(1, np.float32)  # used by nothing
  found = recognise(tensors, rrdb_names.recognise_names(tensors))
  found["encoder"]["taps"] = published_taps(found)
  expected = importlib.import_module(f"configs.x4_{variant}").get_config().model.to_dict()
  assert plain(found) == sizes(expected)


def test_srflows_own_x8_release_has_its_own_taps():
  def taps(name):
    model = plain(importlib.import_module(f"configs.{name}").get_config().model.to_dict())
    return published_taps(model)

  assert taps("x8_srflow") == (1, 3, 5, 7)
  assert taps("x4_srflow") == taps("x8_da") == (1, 8, 15, 22)


# Import and export.


@pytest.mark.parametrize("name", SHIPPED)
def test_every_variant_in_and_out(name, tmp_path):
  """Bit-identical from a published file to parameters to a file, and from that without a config."""
  config, params, tensors = small_flow(name)
  unused = {"flowUpsamplerNet.f.0.weight": np.zeros(1, np.float32)}
  found = read_checkpoint(save(tmp_path / "first.safetensors", tensors | unused), config.model)
  assert_equal_trees(found.params, params)
  second = tmp_path / "second.safetensors"
  exported = to_state_dict(build_model(config.model), found.params)
  files.write(second, exported, config.model.to_dict())
  assert_equal_trees(files.read(str(second))[0], tensors)
  again = read_checkpoint(str(second))
  assert_equal_trees(again.params, params)
  assert plain(again.model_config) == plain(config.model.to_dict()) and not again.notes


def test_import_after_export_is_bit_identical(tmp_path):
  """The same through workdirs; the nearest of the shipped configurations is found."""
  config, params, tensors = small_flow("x4_srflow")
  first, second = save(tmp_path / "1.safetensors", tensors), str(tmp_path / "2.safetensors")
  import_weights(first, str(tmp_path / "one"), config, {})
  run = checkpoints.load_run(tmp_path / "one")
  assert_equal_trees(run.params, jax.tree.map(jnp.asarray, params))
  assert run.step == 0 and not config_differences(run.config, config)
  export_weights(str(tmp_path / "one"), second)
  unused = published.unused_tensors(run.model)
  assert_equal_trees(files.read(second)[0], tensors | unused)
  shipped = {name: small_config(name) for name in SHIPPED}
  import_weights(second, str(tmp_path / "two"), None, shipped)
  again = checkpoints.load_run(tmp_path / "two")
  assert_equal_trees(again.params, run.params)
  assert not config_differences(again.config, run.config)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_unused_layer_has_the_size_that_the_papers_count(name):
  model = build_model(importlib.import_module(f"configs.{name}").get_config().model)
  unused = published.unused_tensors(model)
  assert {n: a.shape for n, a in unused.items()} == {
    "flowUpsamplerNet.f.0.weight": (96, 320, 3, 3),
    "flowUpsamplerNet.f.0.bias": (96,),
  }
  assert sum(array.size for array in unused.values()) == 276_576


def test_exported_file_is_as_the_umask_says_and_follows_no_link(tmp_path):
  config, params, _ = small_flow("x4_da")
  checkpoint_of(config, params, tmp_path / "W")
  (tmp_path / "elsewhere").write_bytes(b"kept")
  for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
    file = tmp_path / "x.safetensors"
    file.unlink(missing_ok=True)
    file.symlink_to(tmp_path / "elsewhere")
    before = os.umask(umask)
    try:
      with pytest.raises(InputError, match="is there already: give another --file, or --over"):
        export_weights(str(tmp_path / "W"), str(file))
      export_weights(str(tmp_path / "W"), str(file), overwrite=True)
      import_weights(str(file), str(tmp_path / f"W{umask}"), None, {"x": config})
    finally:
      os.umask(before)
    assert file.lstat().st_mode & 0o7777 == mode and not file.is_symlink()
    assert (tmp_path / f"W{umask}").stat().st_mode & 0o777 == 0o777 & ~umask
  assert (tmp_path / "elsewhere").read_bytes() == b"kept"
  assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_export_in_16_bits_with_facts(tmp_path):
  config, params, _ = small_flow("x4_da")
  checkpoint_of(config, params, tmp_path / "W")
  whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
  export_weights(str(tmp_path / "W"), str(whole))
  export_weights(str(tmp_path / "W"), str(half), float16=True, facts={"licence": "MIT"})
  found = read_checkpoint(str(half))
  expected = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params)
  assert_equal_trees(found.params, expected)
  with safetensors.safe_open(half, "numpy") as file:
    assert file.metadata()["licence"] == "MIT"
  assert half.stat().st_size < 0.7 * whole.stat().st_size
  with pytest.raises(InputError, match=r"^--licence=a\\xff: not UTF-8$"):
    export_weights(
      str(tmp_path / "W"), str(tmp_path / "x.safetensors"), facts={"licence": "a\udcff"}
    )

  params["encoder"]["conv_last"]["bias"] = np.full(3, 1e5, np.float32)
  checkpoint_of(config, params, tmp_path / "large")
  with pytest.raises(InputError, match=r"RRDB\.conv_last\.bias has values too large for float16"):
    export_weights(str(tmp_path / "large"), str(half), float16=True, overwrite=True)
  assert_equal_trees(read_checkpoint(str(half)).params, expected)  # the file that was there


@pytest.mark.parametrize(
  "kind, skip, warned",
  [
    ("rrdb", "first_conv", False),  # BasicSR's names say so
    ("rrdb", "last_block", True),  # ESRGAN's are read with the other one as well
    ("flow", "first_conv", True),  # SRFlow's say the other one
    ("flow", "last_block", False),
  ],
)
def test_export_warns_of_names_that_say_another_skip(kind, skip, warned, tmp_path):
  config = small_config("x4_da") if kind == "flow" else small_rrdb_config()
  config.model.encoder.global_skip = skip
  checkpoint_of(config, random_params(build_model(config.model), dtype=np.float32), tmp_path / "W")
  text = export_weights(str(tmp_path / "W"), str(tmp_path / "y.safetensors"))
  assert (f"warning: the encoder's global skip is from {skip}" in text) == warned


@pytest.mark.parametrize("skip", ["last_block", "first_conv"])
def test_rrdb_goes_in_and_out(skip, tmp_path):
  config = small_rrdb_config(skip)
  params = random_params(build_model(config.model), dtype=np.float32)
  checkpoint_of(config, params, tmp_path / "W")
  file = str(tmp_path / "x.safetensors")
  export_weights(str(tmp_path / "W"), file)
  # No name that was published with another skip.
  names = rrdb_names.recognise_names(files.read(file)[0])
  assert names.global_skip in (None, skip)
  import_weights(file, str(tmp_path / "again"), None, {"x": x4_da.get_config(), "rrdb": config})
  again = checkpoints.load_run(tmp_path / "again")
  assert_equal_trees(again.params, jax.tree.map(jnp.asarray, params))
  assert not config_differences(again.config, config)


def checkpoint_of(config, params, folder: pathlib.Path) -> None:
  """Makes a run of 0 steps, as an import does."""
  model = build_model(config.model)
  file = folder.with_suffix(".safetensors")
  names = rrdb_names.SRFLOW if "flow" in params else rrdb_names.BASICSR
  files.write(file, to_state_dict(model, params, names), config.model.to_dict())
  import_weights(str(file), str(folder), config, {})


def test_import_says_what_to_do_next(tmp_path):
  config, _, tensors = small_flow("x4_da")
  text = import_weights(save(tmp_path / "x.safetensors", tensors), str(tmp_path / "W"), config, {})
  assert f"train.py --config=configs/workdir.py:{tmp_path / 'W'} --workdir=" in text
  assert not config_differences(workdir.get_config(tmp_path / "W"), config)
  origin = json.loads((tmp_path / "W" / "imported.json").read_text())
  assert list(origin) == ["x.safetensors"]


@pytest.mark.parametrize(
  "change, message",
  [
    ({"scale": 8}, "config.model.scale is 8, not 4"),
    ({"encoder.global_skip": "first_conv"}, "global_skip is 'first_conv', not 'last_block'"),
    ({"encoder.taps": (1,)}, "config.model.encoder.taps are 1, not 2"),
    ({"conditioner.num_hidden": 2}, "config.model.conditioner.num_hidden is 2, not 4"),
    ({"stages": ()}, "config.model.stages are 0, not 2"),
  ],
)
def test_configuration_of_another_model(change, message, tmp_path):
  config, _, tensors = small_flow("x4_da")
  config.update_from_flattened_dict({f"model.{key}": value for key, value in change.items()})
  with pytest.raises(InputError, match=message):
    import_weights(save(tmp_path / "x.safetensors", tensors), str(tmp_path / "W"), config, {})
  assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_wrong_tensors_write_nothing(tmp_path):
  config, _, tensors = small_flow("x4_da")
  del tensors["flowUpsamplerNet.layers.2.actnorm.logs"]
  with pytest.raises(
    InputError, match=r"missing tensor flowUpsamplerNet\.layers\.2\.actnorm\.logs"
  ):
    import_weights(save(tmp_path / "x.safetensors", tensors), str(tmp_path / "W"), config, {})
  assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_unknown_taps_are_asked_for(tmp_path):
  _, _, tensors = small_flow("x4_da")
  with pytest.raises(
    InputError, match="the flow sees 2 blocks, no tensor shows which: give --conf"
  ):
    read_checkpoint(save(tmp_path / "x.safetensors", tensors))


def test_workdir_in_use(tmp_path):
  config, _, tensors = small_flow("x4_da")
  file = save(tmp_path / "x.safetensors", tensors)
  with pytest.raises(InputError, match="exists and is not an empty folder"):
    import_weights(file, str(tmp_path), config, {})


@pytest.mark.parametrize(
  "file, message", [("x.pth", "must end in .safetensors"), ("no/x.safetensors", "no such folder")]
)
def test_export_to_a_place_that_cannot_be(file, message, tmp_path):
  with pytest.raises(InputError, match=message):
    export_weights(str(tmp_path), str(tmp_path / file))


# RRDB by itself, and encoders that start from weights.


def test_rrdb_trains_with_l1_and_starts_a_flow(tmp_path):
  """One step of an imported RRDB; then its encoder, and no other, is a flow's start."""
  config = small_rrdb_config()
  config.data.update(hr_patch=16, batch_size=2, val_patches=2)
  config.update(num_train_steps=1, log_every_steps=1, checkpoint_every_steps=1, eval_every_steps=1)
  params = random_params(build_model(config.model), dtype=np.float32)
  folder = tmp_path / "rrdb"
  checkpoint_of(config, params, folder)
  going_on = workdir.get_config(folder)
  going_on.optim.encoder_init = "gone"  # what a run started from, it need not find again
  write_config(folder, going_on)
  train(going_on, str(folder))
  run = checkpoints.load_run(folder)
  assert run.step == 1
  assert (
    run.params["encoder"]["conv_last"]["bias"] != params["encoder"]["conv_last"]["bias"]
  ).any()

  flow = small_config("x4_da")
  flow.optim.encoder_init = str(folder)
  assert_equal_trees(starting_params(flow, build_model(flow.model)), dict(run.params))
  flow.model.encoder.global_skip = "first_conv"
  with pytest.raises(InputError, match=r"encoder_init: .*global_skip is 'first_conv', not 'last_b"):
    starting_params(flow, build_model(flow.model))


def test_l1_is_the_mean_absolute_error():
  model = build_model(rrdb_config())
  params = {"params": random_params(model, dtype=np.float32)}
  lr = np.random.default_rng(0).uniform(size=(2, 4, 5, 3)).astype(np.float32)
  given = Given(lr)
  sr = model.apply(params, given, method="super_resolve")
  hr = sr + jnp.array([0.25, -0.5])[:, None, None, None]
  np.testing.assert_allclose(model.apply(params, hr, given, method="loss"), [0.25, 0.5], rtol=1e-5)
  samples = model.apply(params, jax.random.key(0), given, 0.9, 2, method="sample")
  assert_equal_trees(samples, jnp.stack([sr, sr]))


def test_cosine_cycles_restart():
  optim = rrdb_x4.get_config().optim
  rate = learning_rate_schedule(optim, 400)
  peak = optim.learning_rate
  np.testing.assert_allclose([rate(0), rate(100), rate(50)], [peak, peak, peak / 2], rtol=1e-5)
  assert rate(99) < 1e-3 * peak


@pytest.mark.parametrize("source", ["x.safetensors", "W"])
def test_encoder_starts_from_a_flow(source, tmp_path):
  config, params, _ = small_flow("x4_da")
  checkpoint_of(config, params, tmp_path / "W")
  checkpoint_of(config, params, tmp_path / "x")  # leaves x.safetensors
  other = small_config("x4_srflow")
  other.model.encoder.taps = (1, 0)  # are no matter of the encoder's weights
  other.optim.encoder_init = str(tmp_path / source)
  found = starting_params(other, build_model(other.model))
  assert_equal_trees(found, {"encoder": jax.tree.map(np.asarray, params["encoder"])})


def test_frozen_encoder_with_nothing_else_to_train(tmp_path):
  config = small_rrdb_config()
  config.optim.update(encoder_init="x", encoder_frozen_fraction=0.5)
  with pytest.raises(InputError, match="nothing but the encoder to train"):
    train(config, str(tmp_path / "W"))


def test_deterministic_system_in_the_table():
  model = build_model(rrdb_config())
  params = random_params(model, dtype=np.float32)
  system = evaluation.Trained("rrdb", Sampler(model, params))
  assert not system.stochastic
  hr = np.random.default_rng(0).integers(0, 256, (64, 72, 3), dtype=np.uint8)
  samples, scores = evaluation.evaluate_image(
    system, bicubic_resize(hr, 1 / 4), hr, evaluation.Settings()
  )
  assert len(samples) == 1 and scores.lpips.diversity == 0
  assert scores.nll is None and system.num_params == sum(x.size for x in jax.tree.leaves(params))
