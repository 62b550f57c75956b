"""Configurations that cannot be meant: one line each, whatever their source."""

import dataclasses
import importlib
import json
import pathlib
import pkgutil
import runpy
import sys

import ml_collections
import pytest

import configs
import runs
from configs import base
from srflow_jax import cli
from srflow_jax.config import Config, read_config
from srflow_jax.errors import InputError
from srflow_jax.runs import (
  check_config,
  config_differences,
  load_config,
  workdir_path,
  write_config,
)

SHIPPED = [module.name for module in pkgutil.iter_modules(configs.__path__)]
SHIPPED.remove("workdir")
GONE = object()

# Field, value, and a part of the line. The same table goes through `config.json` and Python.
CASES = [
  ("compute", [1], "config.compute is [1]: it must be a block"),
  ("data", None, "config.data is None: it must be a block"),
  ("optim", "adam", "config.optim is 'adam': it must be a block"),
  ("model", 3, "config.model is 3: it must be a block"),
  ("data", GONE, "missing key config.data"),
  ("model", GONE, "missing key config.model"),
  ("seed", GONE, "missing key config.seed"),
  ("optim.warmup_steps", GONE, "missing key config.optim.warmup_steps"),
  ("optim.learning_rat", 1.0, "unknown key config.optim.learning_rat"),
  ("modle", {}, "unknown key config.modle"),
  ("seed", -1, "config.seed is -1"),
  ("seed", 2**32, "config.seed is 4294967296"),
  ("seed", 10**30, "config.seed is 1000"),
  ("seed", 1.5, "config.seed is 1.5: it must be a whole number"),
  ("seed", "1", "config.seed is '1': it must be a whole number"),
  ("seed", True, "config.seed is True: it must be a whole number"),
  ("num_train_steps", 0, "config.num_train_steps is 0"),
  ("num_train_steps", 2**31, "config.num_train_steps is 2147483648"),
  ("num_train_steps", None, "config.num_train_steps is None"),
  ("num_train_steps", [4], "config.num_train_steps is [4]"),
  ("log_every_steps", 0, "config.log_every_steps is 0"),
  ("eval_every_steps", -5, "config.eval_every_steps is -5"),
  ("checkpoint_every_steps", 2.0, "config.checkpoint_every_steps is 2.0"),
  ("keep_checkpoints", 0, "config.keep_checkpoints is 0"),
  ("keep_best", -1, "config.keep_best is -1"),
  ("eval_temperature", -0.1, "config.eval_temperature is -0.1"),
  ("eval_temperature", float("nan"), "config.eval_temperature is nan: it must be finite"),
  ("profile_steps", [3], "profile_steps are (3,)"),
  ("profile_steps", [5, 3], "profile_steps are (5, 3)"),
  ("compute.remat", "false", "config.compute.remat is 'false': it must be True or False"),
  ("compute.remat", "no", "config.compute.remat is 'no': it must be True or False"),
  ("compute.bfloat16", 1, "config.compute.bfloat16 is 1: it must be True or False"),
  ("data.flips", None, "config.data.flips is None: it must be True or False"),
  ("data.train_dir", 3, "config.data.train_dir is 3: it must be a text"),
  ("data.val_dir", ["a"], "config.data.val_dir is ['a']: it must be a text"),
  ("data.hr_patch", 0, "config.data.hr_patch is 0"),
  ("data.hr_patch", 10**9, "config.data.hr_patch is 1000000000"),
  ("data.batch_size", 0, "config.data.batch_size is 0"),
  ("data.batch_size", 2**31, "config.data.batch_size is 2147483648"),
  ("data.batch_size", "many", "config.data.batch_size is 'many'"),
  ("data.val_patches", -1, "config.data.val_patches is -1"),
  ("seed", 2**32, "config.seed is 4294967296: it must be at least 0 and at most 4294967295"),
  ("data.num_workers", -1, "config.data.num_workers is -1"),
  ("data.num_workers", 10**6, "config.data.num_workers is 1000000"),
  ("data.cache_mb", -1, "config.data.cache_mb is -1"),
  ("data.noise.std", float("nan"), "config.data.noise.std is nan"),
  ("data.noise.std", -1.0, "config.data.noise.std is -1.0"),
  ("data.noise.kind", "pink", "config.data.noise.kind is 'pink': one of gaussian"),
  ("plugins", ("no_such_module",), "config.plugins: no_such_module cannot be imported"),
  ("plugins", "x", "config.plugins is 'x': it must be a list"),
  ("optim.learning_rate", float("nan"), "config.optim.learning_rate is nan"),
  ("optim.learning_rate", float("inf"), "config.optim.learning_rate is inf"),
  ("optim.learning_rate", -1.0, "config.optim.learning_rate is -1.0"),
  ("optim.learning_rate", 0, "config.optim.learning_rate is 0"),
  ("optim.learning_rate", 10**400, "config.optim.learning_rate is inf"),
  ("optim.b1", 1.0, "config.optim.b1 is 1.0"),
  ("optim.b2", float("nan"), "config.optim.b2 is nan"),
  ("optim.eps", 0.0, "config.optim.eps is 0.0"),
  ("optim.eps", 1e-300, "config.optim.eps is 1e-300"),
  ("optim.weight_decay", -0.1, "config.optim.weight_decay is -0.1"),
  ("optim.clip_norm", float("nan"), "config.optim.clip_norm is nan"),
  ("optim.clip_norm", -0.5, "config.optim.clip_norm is -0.5"),
  ("optim.clip_norm", 1e300, "config.optim.clip_norm is 1e+300"),
  ("optim.warmup_steps", -1, "config.optim.warmup_steps is -1"),
  ("optim.decay_at", [-1], "config.optim.decay_at is (-1.0,)"),
  ("optim.decay_at", [0.5, float("nan")], "config.optim.decay_at[1] is nan"),
  ("optim.decay_at", [10**400], "config.optim.decay_at[0] is inf"),
  ("optim.decay_at", 0.5, "config.optim.decay_at is 0.5: it must be a list"),
  ("optim.decay_at", ["x"], "config.optim.decay_at[0] is 'x'"),
  ("optim.decay_factor", -1.0, "config.optim.decay_factor is -1.0"),
  ("optim.cosine_cycles", -1, "config.optim.cosine_cycles is -1"),
  ("optim.ema_decay", 1.0, "config.optim.ema_decay is 1.0"),
  ("optim.accumulation_steps", 0, "config.optim.accumulation_steps is 0"),
  ("optim.encoder_init", None, "config.optim.encoder_init is None"),
  ("optim.encoder_frozen_fraction", float("nan"), "encoder_frozen_fraction is nan"),
  ("optim.encoder_frozen_fraction", 2.0, "encoder_frozen_fraction is 2.0"),
  ("optim.encoder_rate_factor", 0.0, "encoder_rate_factor is 0.0"),
  ("optim.max_skipped_steps", 0, "max_skipped_steps is 0"),
  ("optim.rollback_rate_factor", 1.0, "rollback_rate_factor is 1.0"),
  ("optim.optimizer", "lion", "config.optim.optimizer is 'lion': it must be a block"),
  ("optim.optimizer", {"b1": 1}, "config.optim.optimizer.kind must name"),
  ("optim.optimizer", {"kind": 3}, "config.optim.optimizer.kind must name"),
]


def changed(field, value):
  values = json.loads(json.dumps(base.get_config().to_dict()))
  *blocks, name = field.split(".")
  block = values
  for part in blocks:
    block = block[part]
  if value is GONE:
    del block[name]
  else:
    block[name] = value
  return values


@pytest.mark.parametrize("field, value, message", CASES)
def test_what_cannot_be_meant_is_refused_in_one_line(field, value, message, tmp_path):
  values = changed(field, value)
  (tmp_path / "config.json").write_text(json.dumps(values))
  for reader in (lambda: read_config(values), lambda: load_config(tmp_path)):
    with pytest.raises(InputError) as refused:
      reader()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


FILES = {
  "empty": ("", "no JSON"),
  "half": ('{"seed": 0, "mod', "no JSON"),
  "null": ("null", "config is None: it must be a block"),
  "list": ("[1, 2]", "config is [1, 2]: it must be a block"),
  "number": ("7", "config is 7: it must be a block"),
  "text": ('"x"', "config is 'x': it must be a block"),
  "nested": ("[" * 100_000, "no JSON"),
  "not UTF-8": ("\udcff", "no JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(name, tmp_path):
  text, message = FILES[name]
  path = tmp_path / "config.json"
  path.write_bytes(text.encode(errors="surrogateescape"))
  with pytest.raises(InputError) as refused:
    load_config(tmp_path)
  assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_survive_their_file(name, tmp_path):
  config = read_config(importlib.import_module(f"configs.{name}").get_config())
  write_config(tmp_path, config)
  assert load_config(tmp_path).to_dict() == config.to_dict()
  assert config_differences(config, load_config(tmp_path)) == []


def test_fields_of_base_and_of_the_blocks_are_the_same():
  values = base.get_config().to_dict()
  assert set(values) == {field.name for field in dataclasses.fields(Config)}
  for block in ("compute", "data", "optim"):
    kind = {field.name: field.type for field in dataclasses.fields(Config)}[block]
    assert set(values[block]) == {field.name for field in dataclasses.fields(kind)}


def test_a_configuration_of_before_gets_what_is_new():
  values = base.get_config().to_dict()
  del values["profile_steps"], values["optim"]["optimizer"]
  assert read_config(values).to_dict() == read_config(base.get_config()).to_dict()


@pytest.mark.parametrize(
  "changes, asks",
  [
    ({}, True),  # the rate falls at fractions of it
    ({"decay_at": ()}, False),
    ({"decay_at": (), "cosine_cycles": 2}, True),
    ({"decay_at": (), "encoder_init": "W"}, True),
    ({"decay_at": (), "encoder_init": "W", "encoder_frozen_fraction": 0.0}, False),
  ],
)
def test_the_number_of_steps_may_change_where_nothing_is_a_fraction_of_it(changes, asks):
  config = base.get_config()
  config.optim.update(changes)
  longer = ml_collections.ConfigDict(config.to_dict())
  longer.num_train_steps = 2 * config.num_train_steps
  differences = config_differences(read_config(config), read_config(longer))
  assert bool(differences) == asks
  if asks:
    assert "num_train_steps: 200000 → 400000 (learning rates" in differences[0]


def test_checkpoints_of_a_configuration_that_is_gone_are_not_gone_on_with(tmp_path):
  config = read_config(base.get_config())
  check_config(tmp_path, config, allow_change=False)
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  with pytest.raises(InputError, match=r"holds checkpoints, but no config\.json"):
    check_config(tmp_path, config, allow_change=False)
  check_config(tmp_path, config, allow_change=True)
  write_config(tmp_path, config)
  check_config(tmp_path, config, allow_change=False)


WORKDIRS = ["", "run[v2]/W", "gs:/W", "a\\b", "a\nb", "a\udcffb", "a\0b", "~nobody_of_this_name/x"]


@pytest.mark.parametrize("name", WORKDIRS)
def test_workdirs_that_cannot_be_used_are_refused_in_one_line(name):
  with pytest.raises(InputError, match="workdir") as refused:
    workdir_path(name)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["a$b", "a{b", "a#b", "a%b", "a^b", "a:b", "a b", "é"])
def test_other_workdirs_are_taken_as_they_are(name):
  assert workdir_path(name) == pathlib.Path(name)


def test_the_tilde_is_expanded(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert workdir_path("~/x") == tmp_path / "x"


HEAD = "from configs import base\n\ndef get_config():\n  config = base.get_config()\n"
CONFIG_FILES = {
  "raises": (HEAD + "  raise RuntimeError('no')\n", "line 5: RuntimeError: no"),
  "divides": (HEAD + "  return 1 / 0\n", "line 5: ZeroDivisionError: division by zero"),
  "misspelt": (HEAD + "  config.optim.learning_rat = 1.0\n", "line 5"),
  "wrong type": (HEAD + "  config.seed = 'x'\n", "line 5"),
  "syntax": ("def get_config(:\n", "line 1"),
  "imports": ("import no_such_module\n", "line 1: ModuleNotFoundError"),
  "no function": ("x = 1\n", "mine.py: it has no function get_config"),
  "a number for it": ("get_config = 3\n", "mine.py: TypeError: 'int' object is not callable"),
  "returns nothing": ("def get_config():\n  pass\n", ""),
  "returns a dict": ("def get_config():\n  return {}\n", ""),
  "not locked": (
    "import ml_collections\n\ndef get_config():\n"
    "  return ml_collections.ConfigDict({'seed': 0, 'sed': 1})\n",
    "unknown key config.sed",
  ),
  "not filled": (
    HEAD + "  config.unlock()\n  from ml_collections import config_dict\n"
    "  config.seed = config_dict.placeholder(int, required=True)\n  return config\n",
    "required",
  ),
}

COMMAND_LINES = {
  "no config": ([], "config"),
  "empty config": (["--config="], "--config=: names no file"),
  "no such config": (["--config=configs/none.py"], "configs/none.py: no such file"),
  "a folder": (["--config=configs"], "configs: no such file"),
  "no such idea": (["--config=configs/ideas.py:jet"], "no idea 'jet': one of da, ncsr"),
  "workdir alone": (["--config=configs/workdir.py"], "configs/workdir.py needs a run's folder"),
  "workdir of nothing": (["--config=configs/workdir.py:"], "needs a run's folder"),
  "workdir of none": (["--config=configs/workdir.py:/none"], "no such workdir: /none"),
  "misspelt block": (["--config=configs/tiny.py", "--config.modle.scale=4"], "modle"),
  "misspelt field": (["--config=configs/tiny.py", "--config.model.stages[0].stepz=4"], "stepz"),
  "stage 9": (["--config=configs/tiny.py", "--config.model.stages[9].steps=4"], "stages[9]"),
  "text for a number": (
    ["--config=configs/tiny.py", "--config.data.batch_size=many"],
    "batch_size",
  ),
  "float for an int": (["--config=configs/tiny.py", "--config.data.batch_size=1.5"], "batch_size"),
  "nan": (["--config=configs/tiny.py", "--config.optim.clip_norm=nan"], "clip_norm is nan"),
  "infinite": (["--config=configs/tiny.py", "--config.optim.decay_at=(1e400,)"], "decay_at[0]"),
  "negative": (["--config=configs/tiny.py", "--config.optim.decay_factor=-1"], "decay_factor"),
  "past int32": (["--config=configs/tiny.py", "--config.num_train_steps=2147483648"], "num_train"),
  "a block": (["--config=configs/tiny.py", "--config.optim=3"], "optim"),
  "not Python": (["--config=configs/tiny.py", "--config.optim.decay_at=(1,"], "decay_at"),
  "unknown flag": (["--config=configs/tiny.py", "--workdirr=x"], "workdirr"),
  "argument": (["--config=configs/tiny.py", "more"], "unexpected argument: more"),
  "empty workdir": (["--config=configs/tiny.py", "--workdir="], "the workdir's name is empty"),
  "backslash": (["--config=configs/tiny.py", "--workdir=a\\b"], "backslash"),
  "no optimiser": (
    ["--config=configs/tiny.py", "--config.optim.optimizer.kind=no"],
    "kind is 'no'",
  ),
  "data": (["--config=configs/tiny.py", "--config.data.train_dir=/nowhere"], "/nowhere"),
  "a kind's field": (
    ["--config=configs/tiny.py", "--config.seed=1", "--config.model.map.bins=8"],
    "--config.model.map.bins=8: there is no 'bins'; a field of a kind is given",
  ),
  "a misspelt field": (
    ["--config=configs/tiny.py", "--config.compute.dtype=float8"],
    "--config.compute.dtype=float8: there is no 'dtype'",
  ),
  "a kind for a block": (
    ["--config=configs/tiny.py", "--config.model.map=spline"],
    "--config.model.map=spline: it must be a block, as \"--config.model.map={'kind':'spline'}\"",
  ),
  "a kind beside fields of another": (
    ["--config=configs/tiny.py", "--config.model.conditioner.kind=transformer"],
    "given whole: \"--config.model.conditioner={'kind':'transformer'}\"",
  ),
  "an argument for none": (
    ["--config=configs/base.py:foo"],
    "configs/base.py: TypeError: get_conf",
  ),
  "config twice": (
    ["--config=configs/tiny.py", "--config=configs/x4_da.py", "--config.seed=1"],
    "--config is given twice",
  ),
}


def refused_line(arguments, monkeypatch, capsys):
  """Runs `train.py` in this process; the one line in which it refuses."""
  monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
  monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
  monkeypatch.chdir(runs.ROOT)
  with pytest.raises(SystemExit) as ended:
    runpy.run_path(str(runs.ROOT / "train.py"), run_name="__main__")
  output = capsys.readouterr()
  assert ended.value.code == cli.USAGE_ERROR, output
  lines = [line for line in output.err.splitlines() if line]
  assert len(lines) == 1 and lines[0].startswith("error: "), output.err
  return lines[0]


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_command_lines_are_refused_in_one_line(name, monkeypatch, capsys, tmp_path):
  arguments, message = COMMAND_LINES[name]
  workdir = [f"--workdir={tmp_path / 'W'}"] if "--workdir" not in "".join(arguments) else []
  line = refused_line([*workdir, *arguments], monkeypatch, capsys)
  assert message in line and ("with the whole block" in line) == (name == "a kind's field")
  assert not (tmp_path / "W").exists()


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_configuration_files_are_refused_in_one_line(name, monkeypatch, capsys, tmp_path):
  text, message = CONFIG_FILES[name]
  (tmp_path / "mine.py").write_text(text)
  arguments = [f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'W'}"]
  assert message in refused_line(arguments, monkeypatch, capsys)
  assert not (tmp_path / "W").exists()
