"""Writes a workdir's weights in the published names, for other programs.

A model with kinds that were not published is written in our own names, for `import_weights.py`,
`optim.encoder_init` and `optim.flow_init`.

python export_weights.py --workdir=W --file=weights.safetensors
"""

from absl import flags

from srflow_jax import cli
from srflow_jax.errors import InputError

_FLAGS = flags.FlagValues()
_WORKDIR = cli.define_path("workdir", None, "The run's folder.", required=True, flag_values=_FLAGS)
_FILE = cli.define_path(
  "file", None, "The .safetensors to write.", required=True, flag_values=_FLAGS
)
_FLOAT16 = flags.DEFINE_bool(
  "float16", False, "Round the weights to 16 bits: half the size.", flag_values=_FLAGS
)
_ENCODER = flags.DEFINE_string(
  "encoder",
  "",
  "Write the flow alone, in our own names, for an encoder that is known by this name: realsr.",
  flag_values=_FLAGS,
)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Replace the file if it is there.", flag_values=_FLAGS
)
_LICENCE = flags.DEFINE_string(
  "licence", "", "The weights' licence, for the file's header.", flag_values=_FLAGS
)
_ORIGIN = flags.DEFINE_string(
  "origin", "", "Where the weights come from, for the file's header.", flag_values=_FLAGS
)


def main(argv: list[str]) -> None:
  """Exports as the flags say."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  # Here, not above: what takes seconds to import comes after signals and mistakes are answered.
  from srflow_jax.weights.transfer import export_weights

  facts = {"licence": _LICENCE.value, "origin": _ORIGIN.value}
  facts = {name: text for name, text in facts.items() if text}
  said = export_weights(
    _WORKDIR.value, _FILE.value, _FLOAT16.value, facts, _ENCODER.value, _OVERWRITE.value
  )
  print(said)


if __name__ == "__main__":
  cli.run(main, _FLAGS)
