r"""Elementwise maps at an equal budget, and what becomes of their samples on strange LR images.

    python ablate.py --study=configs/studies/couplings_small.py --workdir=runs/couplings_small \
      --train_dir=CID22/training --hr_dir=CID22/validation

The model is the cheapest of `seed_small`, whose sizes and data it has.
"""

from configs.studies import seed_small


def get_config():
  config = seed_small.get_config()
  config.model.stages = seed_small.S["model.stages"]
  return config


def get_study():
  maps = {
    "double_sigmoid": {"kind": "double_sigmoid"},
    "atan": {"kind": "atan"},
    "tanh": {"kind": "tanh"},
    "additive": {"kind": "additive"},
    "spline": {"kind": "spline"},
  }
  return {
    "question": "Which map is best at an equal budget, and which stays finite off its data?",
    "expectation": (
      "The nlls of the affine maps are level, additive's is clearly higher. The published sigmoid, "
      "which only contracts, has by far the worst inverse factor and the most broken samples on "
      "JPEG and noise; atan and double_sigmoid, bounded both ways, and spline have none."
    ),
    "base": get_config(),
    "base_name": "sigmoid",
    "variants": [{"name": name, "set": {"model.map": block}} for name, block in maps.items()],
    "seeds": [0, 1, 2],
    "budget": {"steps": 800},
    "evaluation": {
      "num_samples": 3,
      "temperature": 0.9,
      "degraded": ["jpeg20", "noise10"],
      "degraded_images": 8,
    },
  }
