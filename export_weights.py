"""Writes a workdir's weights in the published names, for other programs.

python export_weights.py --workdir=W --file=weights.safetensors
"""

from absl import flags

from srflow_jax import cli
from srflow_jax.errors import InputError
from srflow_jax.weights.transfer import export_weights

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_FILE = flags.DEFINE_string("file", None, "The .safetensors to write.", required=True)


def main(argv: list[str]) -> None:
  """Exports as the flags say."""
  if len(argv) > 1:
    raise InputError(f"unexpected argument: {argv[1]}")
  print(export_weights(_WORKDIR.value, _FILE.value))


if __name__ == "__main__":
  cli.run(main)
