import functools

import jax
import numpy as np
import pytest
from PIL import Image

import srflow_jax
from configs import base
from models import random_params
from srflow_jax import api, checkpoints
from srflow_jax.errors import InputError
from srflow_jax.model.building import build_model
from srflow_jax.model.features import Given
from srflow_jax.ops.resize import bicubic_resize
from srflow_jax.runs import write_config
from srflow_jax.sampling.budget import Plan
from srflow_jax.sampling.tiles import cut

SCALE = 4


def small_config():
  config = base.get_config()
  config.model.encoder.update(width=4, growth=3, num_blocks=1, taps=(0,))
  config.model.conditioner.update(width=6, num_hidden=1)
  config.model.stages = (
    {"squeeze": 2, "transition_steps": 1, "steps": 1, "split": True},
    {"squeeze": 4, "transition_steps": 0, "steps": 1, "split": False},  # LR is padded to even sides
  )
  return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  config = small_config()
  params = random_params(build_model(config.model), dtype=np.float32)
  params = jax.tree.map(lambda leaf: 0.3 * leaf if leaf.ndim >= 4 else leaf, params)
  write_config(folder, config)
  with checkpoints.writer(folder, keep=1) as writer:
    params = jax.tree.map(jax.numpy.asarray, params)
    writer.save(0, {"params": params})
  return folder


@pytest.fixture(scope="module")
def model(workdir):
  return srflow_jax.load(workdir)


@pytest.fixture(scope="module")
def pair():
  coarse = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
  hr = bicubic_resize(coarse, 8)[:52, :68]  # LR is 13x17: padded
  return hr, bicubic_resize(hr, 1 / SCALE)


def test_samples_of_arrays_and_pil_images(model, pair):
  _, lr = pair
  samples = model.sample(lr, num_samples=2, temperature=0.5, seed=4)
  assert samples.shape == (2, 52, 68, 3) and samples.dtype == np.uint8
  np.testing.assert_array_equal(model.sample(Image.fromarray(lr), 2, 0.5, 4), samples)
  floats = model.sample(lr / 255, 1, 0.5, 4)
  assert floats.dtype == np.float32
  np.testing.assert_allclose(np.clip(floats[0], 0, 1) * 255, samples[0], atol=0.51)
  assert (samples[0] != samples[1]).any()


def test_orientation_that_exif_notes_is_applied(model, pair):
  _, lr = pair
  turned, exif = Image.fromarray(np.rot90(lr)), Image.Exif()
  exif[0x0112] = 6  # to be turned clockwise
  turned.info["exif"] = exif.tobytes()
  np.testing.assert_array_equal(model.sample(turned, seed=4), model.sample(lr, seed=4))


def test_without_noise_one_sample_is_drawn(model, pair, monkeypatch):
  drawn = []
  draw = model._sampler.draw
  monkeypatch.setattr(
    model._sampler,
    "draw",
    lambda p, seed, samples, t, **rest: drawn.append(samples) or draw(p, seed, samples, t, **rest),
  )
  samples = model.sample(pair[1], 3, temperature=0)
  assert drawn == [range(1)] and samples.shape[0] == 3
  assert (samples == samples[0]).all()


def test_samples_are_the_model_s_own(model, workdir, pair):
  run = checkpoints.load_run(workdir)
  lr = (pair[1] / 255).astype(np.float32)
  sample = functools.partial(run.model.apply, num_samples=2, method="sample")
  expected = jax.jit(sample)({"params": run.params}, jax.random.key(7), Given(lr[None]), 0.5)[:, 0]
  np.testing.assert_allclose(model.sample(lr, 2, 0.5, seed=7), expected, atol=1e-5)


def test_samples_can_be_made_consistent_and_denoised(model, pair):
  _, lr = pair
  plain, consistent = (model.sample(lr, 2, 0.5, consistent=choice) for choice in (False, True))
  off, left = (
    [np.abs(bicubic_resize(sample, 1 / SCALE).astype(int) - lr).mean() for sample in samples]
    for samples in (plain, consistent)
  )
  assert consistent.dtype == np.uint8 and max(left) < 0.05 < min(off)
  (likeliest,) = model.sample(lr, temperature=0, consistent=True)
  for sample in model.sample(lr, 3, temperature=0, consistent=True):
    np.testing.assert_array_equal(sample, likeliest)
  floats = lr / 255
  change = model.sample(floats, 1, 0.5, denoise=50) - model.sample(floats, 1, 0.5)
  twice = model.sample(floats, 1, 0.5, denoise=100) - model.sample(floats, 1, 0.5)
  assert np.abs(change).max() > 1e-3
  np.testing.assert_allclose(twice, 2 * change, atol=1e-5)
  for denoise in (-1, float("nan")):
    with pytest.raises(InputError, match=f"denoise is {denoise}: it must be 0 or more"):
      model.sample(lr, denoise=denoise)


def test_samples_are_equal_on_restart(model, workdir, pair):
  again = srflow_jax.load(workdir)
  np.testing.assert_array_equal(again.sample(pair[1], seed=3), model.sample(pair[1], 3, seed=3)[:1])


def test_encode_and_decode_are_inverse(model, pair):
  hr, lr = pair
  latents = model.encode(hr, lr)
  assert [z.shape for z in latents] == [(28, 36, 6), (7, 9, 96)]
  np.testing.assert_array_equal(model.decode(latents, lr), hr)
  np.testing.assert_allclose(model.decode(latents, lr / 255), hr / 255, atol=1e-4)
  for own, given in zip(model.encode(hr), latents, strict=True):  # LR is MATLAB's bicubic
    np.testing.assert_array_equal(own, given)


def test_log_prob_is_the_model_s(model, workdir, pair):
  run = checkpoints.load_run(workdir)
  hr, lr = ((image[None] / 255).astype(np.float32) for image in pair)
  log_prob = jax.jit(functools.partial(run.model.apply, method="log_prob"))
  expected = float(log_prob({"params": run.params}, hr, Given(lr))[0])
  assert model.log_prob(*pair) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda m, hr, lr: m.sample(lr, 0), "num_samples is 0"),
    (lambda m, hr, lr: m.sample(lr, 1001), "num_samples is 1001: it must be at most 1000"),
    (lambda m, hr, lr: m.sample(lr, temperature=-1), "temperature is -1"),
    (lambda m, hr, lr: m.sample(lr, seed=-1), "seed is -1"),
    (lambda m, hr, lr: m.sample(lr[..., 0]), r"image has shape \(13, 17\)"),
    (lambda m, hr, lr: m.sample(lr.astype(int)), "image is of int64"),
    (lambda m, hr, lr: m.sample(lr.astype(float)), "floats lie in"),
    (lambda m, hr, lr: m.sample("photo.png"), "image is a str"),
    (lambda m, hr, lr: m.sample(Image.new("RGBA", (9, 9))), "transparent pixels"),
    (lambda m, hr, lr: m.sample(Image.new("I;16", (9, 9))), "I;16 images are not supported"),
    (lambda m, hr, lr: m.encode(hr[:-1], lr), "hr is 68x51 pixels"),
    (lambda m, hr, lr: m.encode(hr, lr[:-1]), "lr is 17x12 pixels"),
    (lambda m, hr, lr: m.decode(m.encode(hr)[1:], lr), "latents of shapes"),
    (lambda m, hr, lr: m.decode(None, lr), "latents are no list of arrays"),
    (lambda m, hr, lr: m.decode([[[1], [1, 2]]], lr), "latents are no list of arrays"),
    (lambda m, hr, lr: m.decode("ab", lr), "latents are of <U1"),
    (lambda m, hr, lr: m.decode([1j * z for z in m.encode(hr)], lr), "latents are of complex64"),
    (lambda m, hr, lr: m.sample(lr, None), "num_samples is None"),
    (lambda m, hr, lr: m.sample(lr, 1.5), "num_samples is 1.5"),
    (lambda m, hr, lr: m.sample(lr, True), "num_samples is True"),
    (lambda m, hr, lr: m.sample(lr, seed=None), "seed is None"),
    (lambda m, hr, lr: m.sample(lr, seed=1.5), "seed is 1.5"),
    (lambda m, hr, lr: m.sample(lr, temperature=None), "temperature is None"),
    (lambda m, hr, lr: m.sample(lr, temperature=[0.8, "x"]), r"temperature is \(0.8, 'x'\)"),
    (lambda m, hr, lr: m.sample(Image.new("RGB", (0, 0))), "image has no pixels: it is 0x0"),
  ],
)
def test_arguments_that_cannot_be_used(model, pair, call, message):
  with pytest.raises(InputError, match=message):
    call(model, *pair)


def test_image_beyond_the_budget(workdir, pair):
  small = srflow_jax.load(workdir, max_memory_gb=1.0001, tile_overlap=4)
  with pytest.raises(InputError, match=r"17x13|18x14.*does not fit 1\.00 GB"):
    small.sample(pair[1])


@pytest.mark.slow
def test_tiles_keep_what_the_whole_image_gives(model, workdir, pair, monkeypatch):
  tiled = srflow_jax.load(workdir)
  plan = Plan(cut((14, 18), (1, 2), overlap=4, multiple=2))
  monkeypatch.setattr(tiled._sampler.budget, "plan", lambda lr_size, request: plan)
  hr, lr = pair
  latents = model.encode(hr, lr)
  for own, expected in zip(tiled.encode(hr, lr), latents, strict=True):
    np.testing.assert_allclose(own, expected, atol=0.1)
  # These parameters let more than trained ones through so small an overlap.
  assert np.abs(tiled.decode(latents, lr).astype(int) - hr).max() <= 4
  assert tiled.log_prob(hr, lr) == pytest.approx(model.log_prob(hr, lr), rel=1e-3)


def test_numbers_of_other_kinds_are_taken(model, pair):
  hr, lr = pair
  half = (hr / 255).astype(np.float16)
  assert model.log_prob(half) == pytest.approx(model.log_prob(half.astype(np.float32)))
  listed = model.sample(lr, np.int64(1), [0.8, 0.9], np.uint32(3))
  np.testing.assert_array_equal(listed, model.sample(lr, 1, (0.8, 0.9), 3))


@pytest.mark.parametrize(
  "settings",
  [{"step": "5"}, {"step": 0.0}, {"step": False}, {"max_memory_gb": None}, {"tile_overlap": 1.5}],
)
def test_settings_of_loading_that_cannot_be_meant(workdir, settings):
  ((name, value),) = settings.items()
  with pytest.raises(InputError, match=f"^{name} is {value!r}: it must be "):
    srflow_jax.load(workdir, **settings)


def test_checkpoint_that_is_not_there(workdir):
  with pytest.raises(InputError, match="no checkpoint"):
    srflow_jax.load(workdir, step=5)


def test_a_run_that_is_not_there(tmp_path):
  with pytest.raises(InputError, match="no such workdir"):
    srflow_jax.load(tmp_path / "none")


def test_an_encoder_alone_has_samples_and_no_density(monkeypatch, pair):
  config = small_config()
  config.model.stages = ()
  alone = build_model(config.model)
  params = random_params(alone, dtype=np.float32)
  run = checkpoints.Run(config, alone, params, 0)
  monkeypatch.setattr(api, "load_model", lambda workdir, step, ema: run)
  model = srflow_jax.load("anywhere")
  samples = model.sample(pair[1], 2)
  np.testing.assert_array_equal(samples[0], samples[1])
  with pytest.raises(InputError, match="encoder alone"):
    model.log_prob(*pair)
