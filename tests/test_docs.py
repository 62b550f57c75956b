"""What README and docs say that can be checked cheaply: kinds, links, commands, the example."""

import importlib
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from srflow_jax.config import read_config
from srflow_jax.model import layers
from srflow_jax.model.building import build_model, init_params
from srflow_jax.model.encoders import Encoder
from srflow_jax.model.features import Given
from srflow_jax.model.kinds import kinds_of
from srflow_jax.model.maps import Map
from srflow_jax.model.mixers import Mixer
from srflow_jax.model.nets import Net
from srflow_jax.model.noises import Noise
from srflow_jax.model.priors import Prior
from srflow_jax.model.targets import Target

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("weights/*.md")]
PLACES = (Map, Mixer, Net, layers.Layer, Prior, Target, Encoder, Noise)


def test_the_table_of_kinds_is_that_of_the_code():
  """Each row names kinds, in the column after the block's, and the file that they are in."""
  rows, place = {}, ""
  for line in (ROOT / "docs/model.md").read_text().splitlines():
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    if len(cells) != 5 or "](../srflow_jax/model/" not in cells[4]:
      continue
    place = cells[0] or place
    file = re.search(r"\((.*)\)", cells[4]).group(1)
    names = re.findall(r"`(\w+)`", cells[2])
    rows |= {(place, name): (ROOT / "docs" / file).resolve() for name in names}
  kinds = {
    (place.place, name): pathlib.Path(sys.modules[cls.__module__].__file__).resolve()
    for place in PLACES
    for name, cls in kinds_of(place).items()
    if cls.__module__.startswith("srflow_jax.")
  }
  assert rows == kinds


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
  for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
    assert target.startswith("https://") or (page.parent / target).exists(), target


def commands(page: pathlib.Path) -> list[list[str]]:
  """The commands of our own programs in a page's indented blocks and tables."""
  text = page.read_text().replace("\\\n", " ")
  found = re.findall(
    r"(?:^    |\| `|^    until )(python [\w./ -].*?)(?:`|; do|  #|$)", text, re.MULTILINE
  )
  return [shlex.split(command, comments=True) for command in found]


ALL_COMMANDS = [(page, command) for page in PAGES for command in commands(page)]


def test_commands_are_found():
  assert len(ALL_COMMANDS) > 25
  assert {command[1] for _, command in ALL_COMMANDS} >= {"train.py", "evaluate.py", "-m"}


def flags_of(program: str) -> set[str]:
  """The flags that a program's source defines, negations of flags that are on or off included."""
  text = (ROOT / program).read_text()
  names = re.findall(r'(?:DEFINE|define)_\w+\([^"]*"(\w+)"', text)
  return {*names, *(f"no{name}" for name in re.findall(r'DEFINE_bool\(\s*"(\w+)"', text))}


@pytest.mark.parametrize(
  ("page", "command"), ALL_COMMANDS, ids=lambda value: getattr(value, "name", None)
)
def test_commands_name_programs_flags_fields_and_configurations_that_exist(page, command):
  program, arguments = command[1], command[2:]
  if program == "-m":
    program, arguments = f"{arguments[0].replace('.', '/')}.py", arguments[1:]
    if not program.startswith(("benchmarks/", "srflow_jax/")):
      return
  fields = importlib.import_module("configs.base").get_config()
  for argument in arguments:
    argument = argument.strip("[]")
    if not argument.startswith("--"):
      continue
    name, _, value = argument[2:].partition("=")
    if name.startswith("config."):
      at = fields
      for key in name.split(".")[1:]:
        at = at[key] if "[" not in key else at[key.split("[")[0]][0]
      continue
    assert name in flags_of(program), (page.name, command)
    if value.startswith("configs/") and name == "config":
      assert (ROOT / value.split(":")[0]).exists(), value


def test_make_installs_the_package_itself(tmp_path):
  """So the README's lines of Python work in any folder; by `-e`, with the repository's weights."""
  make = ["make", "--dry-run", "install", f"VENV={tmp_path}"]
  said = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
  assert re.search(r"pip .*install .*--no-deps -e \.$", said, re.MULTILINE), said


def test_the_example_of_the_readme_is_a_model(tmp_path, monkeypatch):
  """Its module and configuration, as they stand there; narrower, to be quick."""
  blocks = re.findall(
    r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
  )
  assert [name for name, _ in blocks] == ["softplus.py", "softplus_config.py"]
  for name, source in blocks:
    (tmp_path / name).write_text(source)
  monkeypatch.syspath_prepend(tmp_path)
  values = importlib.import_module("softplus_config").get_config()
  values.model.encoder.update(width=4, growth=2, num_blocks=1, taps=(0,))
  values.model.conditioner.width = 4
  config = read_config(values)
  model = build_model(config.model)
  hr, lr = jnp.linspace(0, 1, 16 * 16 * 3).reshape(1, 16, 16, 3), jnp.full((1, 4, 4, 3), 0.5)
  params = init_params(model, jax.random.key(0), hr, Given(lr))
  coupling = model.stage_specs[0].step[3]
  assert (coupling.get("map").kind, coupling.get("map").least) == ("softplus", 0.01)
  assert jnp.isfinite(model.apply({"params": params}, hr, Given(lr), method="log_prob")).all()
