"""Studies' definitions: what they expand to, and what is refused before anything runs."""

import dataclasses
import math
import re

import pytest

import runs
import studies_tiny
from srflow_jax.errors import InputError
from srflow_jax.studies import costs, each
from srflow_jax.studies.planning import changed, plan, variant_configs
from srflow_jax.studies.study import DEGRADATIONS, Budget, load_study, read_study


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
  return str(studies_tiny.write_photographs(tmp_path_factory.mktemp("studies") / "photographs"))


def definition(photographs, **fields):
  values = studies_tiny.get_study() | fields
  return read_study(values, hr_dir=photographs, train_dir=photographs, val_dir=photographs)


def test_a_study_becomes_runs_paired_by_seed(photographs):
  planned = plan(definition(photographs))
  names = [run.name for run in planned.runs]
  assert names == ["base-seed3", "two-seed3", "base-seed5", "two-seed5"]
  configs = {run.name: run.config for run in planned.runs}
  assert {config.num_train_steps for config in configs.values()} == {studies_tiny.STEPS}
  two = configs["two-seed5"]
  assert (two.seed, two.model.stages[0]["steps"], two.model.conditioner.width) == (5, 2, 6)
  assert two.data == configs["base-seed5"].data and two.data.train_dir == photographs
  assert len({run.digest for run in planned.runs}) == 4


def test_lists_multiply_to_a_grid(photographs):
  grid = {
    "model.conditioner.width": each(5, 6),
    "model.map": each({"kind": "atan"}, {"kind": "tanh"}),
  }
  study = definition(
    photographs, variants=[{"name": "w", "set": grid}], learning_rates=[1e-3, 3e-4]
  )
  planned = plan(study)
  assert list(planned.configs) == ["base", "w-5-1", "w-5-2", "w-6-1", "w-6-2"]
  assert planned.configs["w-6-2"].model.map.kind == "tanh"
  assert len(planned.runs) == 5 * 2 * 2
  assert planned.runs[1].name == "base-lr0.0003-seed3"
  assert planned.runs[1].config.optim.learning_rate == 3e-4


def variants(*blocks):
  return {"variants": [dict(zip(("name", "set"), block, strict=True)) for block in blocks]}


WIDE = {"model.conditioner.width": 7}
REFUSED = {
  "a variant that equals the base": (
    variants(("same", {"model.conditioner.width": 4})),
    "variant 'same' equals the base",
  ),
  "one that spells out a default": (
    variants(("same", {"model.prior": {"kind": "gaussian"}})),
    "variant 'same' equals the base",
  ),
  "two that are equal": (variants(("a", WIDE), ("b", WIDE)), "variant 'b' equals a"),
  "two of one name": (variants(("a", WIDE), ("a", {})), "two variants are called 'a'"),
  "a name that is no folder's": (variants(("a/b", WIDE)), "cannot be called 'a/b'"),
  "the name of the reference": (variants(("bicubic", WIDE)), "cannot be called 'bicubic'"),
  "no variant": ({"variants": []}, "variants is empty"),
  "an unknown field": (
    variants(("a", {"model.conditioner.widht": 7})),
    "variant 'a': unknown key config.model.conditioner.widht",
  ),
  "an unknown block": (variants(("a", {"modle.width": 7})), "'modle.width' is no field"),
  "a stage that there is not": (
    variants(("a", {"model.stages[3].steps": 7})),
    "'model.stages[3].steps' is no field of the configuration: there is no [3]",
  ),
  "a misspelt place": (variants(("a", {"model stages": 7})), "'model stages' is no field"),
  "a seed of its own": (variants(("a", {"seed": 7})), "seed is the study's own"),
  "a value that cannot be built": (variants(("a", {"model.map": {"kind": "no"}})), "'no': one of"),
  "a value that cannot be trained": (variants(("a", {"data.batch_size": 0})), "batch_size is 0"),
  "another scale": (
    variants(("a", {"model.scale": 2, "model.stages[0].squeeze": 2})),
    "variants enlarge by 2, 4",
  ),
  "an empty list": (variants(("a", {"data.hr_patch": each()})), "a list of no values"),
  "neither changes nor a configuration": (
    {"variants": [{"name": "a"}]},
    "either `set` or `config`",
  ),
  "a rate that the study sets": (
    variants(("a", {"optim.learning_rate": 1e-3})) | {"learning_rates": [1e-3, 1e-4]},
    "and so do the study's learning_rates",
  ),
  "no seeds": ({"seeds": []}, "seeds is empty"),
  "a seed twice": ({"seeds": [3, 3]}, "seeds has 3 twice"),
  "no expectation": ({"expectation": " "}, "expectation is empty"),
  "no budget": ({"budget": {}}, "one of steps, flops and seconds"),
  "two budgets": ({"budget": {"steps": 3, "flops": 1e9}}, "there are steps and flops"),
  "a budget below a step": ({"budget": {"flops": 10.0}}, "makes 0 steps"),
  "seconds of an unnamed device": ({"budget": {"seconds": 9.0}}, "need the kind of device"),
  "seconds of another device": (
    {"budget": {"seconds": 9.0, "device": "1 x TPU"}},
    "its seconds are of '1 x TPU'",
  ),
  "an unknown degradation": ({"evaluation": {"degraded": ["rain"]}}, "one of 'jpeg20', 'noise10'"),
  "a degradation that is no list": (
    {"evaluation": {"degraded": 1}},
    "degraded is 1: it must be a list of texts, each one of 'jpeg20', 'noise10'",
  ),
  "a rate that is no list": (
    {"learning_rates": 1e-3},
    "learning_rates is 0.001: it must be a list of numbers, each above 0",
  ),
  "a field of no study": ({"colour": 1}, "unknown key study.colour"),
  "no such images": ({"base": None}, "study.base is None"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_before_anything_runs(case, photographs):
  fields, message = REFUSED[case]
  with pytest.raises(InputError) as refused:
    plan(definition(photographs, **fields))
  assert message in str(refused.value) and "\n" not in str(refused.value)


def test_the_examples_of_the_page_are_a_study():
  page = (runs.ROOT / "docs" / "studies.md").read_text()
  study, fields = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  names = {}
  exec(study, names)
  values = names["get_study"]() | eval(f"{{{fields}}}")
  evaluation = read_study(values).evaluation
  assert evaluation.degraded == DEGRADATIONS and evaluation.receptive_field_images > 0


@pytest.mark.parametrize("name", ["seed_x4", "seed_x8", "seed_small", "couplings_small"])
def test_shipped_studies_have_variants_that_can_be_trained(name):
  study = load_study(runs.ROOT / "configs" / "studies" / f"{name}.py")
  configs = variant_configs(study)
  assert len(configs) == (6 if name == "couplings_small" else 5) and len(study.seeds) == 3
  if name.startswith("seed_x"):
    assert configs["srflow"].model.stages[2]["steps"] == 16
    assert configs["da_d"].model.conditioner.num_hidden == 36


def test_data_that_are_not_there_are_named(photographs):
  study = read_study(studies_tiny.get_study(), hr_dir="nowhere", train_dir=photographs)
  with pytest.raises(InputError, match="nowhere"):
    plan(study)
  study = read_study(studies_tiny.get_study(), hr_dir=photographs, train_dir="nowhere")
  with pytest.raises(InputError, match="nowhere"):
    plan(study)


@pytest.mark.parametrize(
  "text, reason",
  [
    ("import studies_tiny\nget_study = studies_tiny.get_study\n", None),
    ("get_study = 3\n", "TypeError"),
    ("\0", "source code string cannot contain null bytes"),
  ],
)
def test_a_study_s_file_may_have_any_name(text, reason, tmp_path):
  path = tmp_path / "study"
  path.write_text(text)
  if reason is None:
    assert load_study(path).variants
    return
  with pytest.raises(InputError, match=f"^{path}: .*{reason}"):
    load_study(path)


def test_files_of_studies(tmp_path, photographs):
  study = load_study(studies_tiny.__file__, train_dir=photographs, hr_dir=photographs)
  assert study.base["data"]["train_dir"] == photographs == study.evaluation.hr_dir
  with pytest.raises(InputError, match="no such file"):
    load_study(tmp_path / "none.py")
  broken = tmp_path / "broken.py"
  for text, message in {
    "def get_study():\n  return 1 / 0": "broken.py, line 2: ZeroDivisionError",
    "def get_study(:": "broken.py, line 1: SyntaxError",
    "x = 1": "AttributeError",
    "def get_study():\n  return 3": "study is 3: it must be a block",
  }.items():
    broken.write_text(text)
    with pytest.raises(InputError, match=message):
      load_study(broken)


def test_changed_leaves_the_configuration_as_it_was():
  config = {"model": {"stages": ({"steps": 1}, {"steps": 2})}, "plugins": ()}
  new = changed(config, {"model.stages[1].steps": 5, "plugins": ("a",)})
  assert [stage["steps"] for stage in new["model"]["stages"]] == [1, 5]
  assert config == {"model": {"stages": ({"steps": 1}, {"steps": 2})}, "plugins": ()}


@pytest.mark.slow
def test_operations_and_what_they_buy(photographs):
  planned = plan(definition(photographs))
  base, two = (planned.configs[name] for name in ("base", "two"))
  each_base, each_two = costs.flops(base), costs.flops(two)
  assert each_base.frozen == 0 < each_base.full < each_two.full
  assert each_base.of_run(base) == studies_tiny.STEPS * each_base.full
  untimed = costs.measured(base, timed=False)
  assert untimed.seconds == costs.PerStep(0, 0) and untimed.memory_bytes > 0
  budget = Budget(flops=10.5 * each_two.full)
  assert costs.steps_of(budget, two) == 10
  assert costs.steps_of(budget, base) == math.floor(budget.flops / each_base.full)
  # With a frozen encoder a step is cheaper, and there are more of them.
  optim = dataclasses.replace(two.optim, encoder_init="x", encoder_frozen_fraction=1.0)
  frozen = costs.PerStep(each_two.full / 2, each_two.full)
  half = dataclasses.replace(optim, encoder_frozen_fraction=0.5)
  steps = costs._steps_within(budget.flops, frozen, dataclasses.replace(two, optim=half))
  assert steps == 14  # 7 at half the price and 7 at the whole


@pytest.mark.slow
def test_a_step_of_each_phase_is_compiled_once_and_timed(photographs, monkeypatch):
  config = plan(definition(photographs)).configs["base"]
  optim = dataclasses.replace(config.optim, encoder_init="x", encoder_frozen_fraction=0.5)
  config = dataclasses.replace(config, optim=optim)
  made, make = [], costs.make_train_step

  def noted(model, config, parts):
    made.append(parts)
    return make(model, config, parts)

  monkeypatch.setattr(costs, "make_train_step", noted)
  monkeypatch.setattr(costs, "starting_params", lambda config, model: {})
  timed = costs.measured(config)
  assert made == [("flow",), ("encoder", "flow")]
  assert timed.seconds.frozen > 0 < timed.seconds.full and timed.memory_bytes > 0
