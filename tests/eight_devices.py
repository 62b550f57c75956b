"""Trains a micro model on one device and on eight, in one process; `test_devices.py` runs it.

Prints what it found as JSON. Needs XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

import json
import re

import jax
import numpy as np

from srflow_jax.config import read_config
from srflow_jax.model.building import build_model
from srflow_jax.training.devices import data_mesh, put_batch, replicated
from srflow_jax.training.diagnosis import make_diagnosis
from srflow_jax.training.start import initial_state
from srflow_jax.training.step import make_train_step
from test_training import micro_config

BATCH, STEPS = 16, 20


def batch_of(step):
  """Smooth images, as float32 so that one can be spoilt: {"hr": [16, ...], "lr": ...}."""
  rng = np.random.default_rng(step)
  lr = rng.uniform(0, 255, (BATCH, 4, 4, 3)).astype(np.float32)
  hr = np.repeat(np.repeat(lr, 4, 1), 4, 2) + rng.normal(0, 40, (BATCH, 16, 16, 3))
  return {"hr": hr.astype(np.float32), "lr": lr}


def plain(tree):
  """A tree's arrays on the host, keys as their data."""
  return [
    np.asarray(jax.random.key_data(leaf) if "key" in str(leaf.dtype) else leaf)
    for leaf in jax.tree.leaves(tree)
  ]


def copies_differ(tree):
  """How many of a replicated tree's arrays are not the same on all devices."""
  return sum(
    len({np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards}) != 1
    for leaf in jax.tree.leaves(tree)
    if "key" not in str(leaf.dtype)
  )


def worst(found, wanted):
  """The largest relative difference of two lists of numbers or arrays, an array's by its norm."""
  pairs = zip(found, wanted, strict=True)
  return max(float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-12)) for a, b in pairs)


def exchanges(step):
  """The kinds of exchange between devices in a compiled step."""
  # One of several arrays at once has spaces in its shape: (f32[3], f32[4]) all-reduce(
  return sorted(set(re.findall(r" = .*? (all-[\w-]+|collective-[\w-]+)\(", step.as_text())))


def run(mesh, splits=1, steps=STEPS):
  """Trains for some steps.

  Returns:
    (losses, state, compiled step, state before the last one, a step's diagnosis).
  """
  config = micro_config()
  config.model.stages = (
    {"squeeze": 4, "transition_steps": 0, "steps": 1, "split": True},
    {"squeeze": 1, "transition_steps": 1, "steps": 0, "split": False},
  )
  config.data.batch_size = BATCH
  config.optim.update(accumulation_steps=splits, ema_decay=0.9, clip_norm=100.0)
  config.optim.learning_rate = 2e-4
  config.num_train_steps = STEPS
  config = read_config(config)
  model = build_model(config.model)
  # Actnorms are set by a batch that is spread over the devices, too.
  state = initial_state(model, config, put_batch(mesh, batch_of(0)), {})
  state = jax.device_put(state, replicated(mesh))
  step = make_train_step(model, config, model.parts)
  step = step.lower(state, put_batch(mesh, batch_of(0))).compile()
  losses = []
  for i in range(steps):
    before = state
    state, metrics = step(state, put_batch(mesh, batch_of(i)))
    losses.append(metrics["nll"])
  diagnosis = make_diagnosis(model, config, model.parts)
  return [float(loss) for loss in losses], state, step, before, diagnosis


def main():
  one, eight = data_mesh(jax.devices()[:1]), data_mesh()
  assert eight.size == 8
  losses, state, *_ = run(one)
  losses_of_eight, state_of_eight, step, before, _ = run(eight)
  found = {
    "losses": losses,
    "loss difference": worst(losses_of_eight, losses),
    "parameter difference": worst(plain(state_of_eight.params), plain(state.params)),
    "not deleted": sum(not leaf.is_deleted() for leaf in jax.tree.leaves(before)),
    "not replicated": sum(
      not leaf.is_fully_replicated or len(leaf.sharding.device_set) != 8
      for leaf in jax.tree.leaves(state_of_eight)
    ),
    "copies that differ": copies_differ(state_of_eight),
    "exchanges": exchanges(step),
  }

  spoilt = batch_of(0)
  spoilt["hr"][-1, 3, 2, 1] = np.nan  # the last device's
  batch = put_batch(eight, spoilt)
  found["batch shards"] = sorted({shard.data.shape for shard in batch["hr"].addressable_shards})
  kept = plain((state_of_eight.params, state_of_eight.ema, state_of_eight.opt_state))
  after, metrics = step(state_of_eight, batch)
  found["skipped"] = int(metrics["skipped"])
  found["changed"] = sum(
    not np.array_equal(a, b)
    for a, b in zip(plain((after.params, after.ema, after.opt_state)), kept, strict=True)
  )
  found["copies that differ"] += copies_differ(after)

  losses_of_splits, state_of_splits, step, _, diagnosis = run(eight, splits=2, steps=5)
  found["split loss difference"] = worst(losses_of_splits, losses[:5])
  found["split exchanges"] = exchanges(step)
  found["copies that differ"] += copies_differ(state_of_splits)
  found["skipped for"] = diagnosis(after.params, after.key, batch, STEPS).first()
  found["nothing to find"] = diagnosis(
    after.params, after.key, put_batch(eight, batch_of(0)), STEPS
  ).first()
  print(json.dumps(found))


if __name__ == "__main__":
  main()
