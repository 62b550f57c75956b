"""What a study was when it began, so that it is not changed while it runs."""

import contextlib
import dataclasses
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

from srflow_jax.blocks import as_mapping
from srflow_jax.errors import InputError
from srflow_jax.files import read_json, write_json
from srflow_jax.model.kinds import plugin_digest
from srflow_jax.runs import config_differences
from srflow_jax.studies.planning import StudyPlan, plan
from srflow_jax.studies.study import Study

FILE = "study.json"


def _of(planned: StudyPlan) -> dict[str, Any]:
  """A study as it is recorded."""
  study = planned.study
  return {
    "question": study.question,
    "expectation": study.expectation,
    "base_name": study.base_name,
    "budget": dataclasses.asdict(study.budget),
    "seeds": list(study.seeds),
    "learning_rates": list(study.learning_rates),
    "evaluation": dataclasses.asdict(study.evaluation),
    "plugins": {
      name: plugin_digest(name) for config in planned.configs.values() for name in config.plugins
    },
    "variants": {name: config.to_dict() for name, config in planned.configs.items()},
  }


def read_record(folder: pathlib.Path) -> Mapping[str, Any]:
  """Reads what a study was.

  Raises:
    InputError: there is none in the folder, or its file is damaged.
  """
  path = folder / FILE
  if not path.exists():
    raise InputError(f"{folder} holds no study: there is no {FILE}")
  record = as_mapping(read_json(path), str(path))
  missing = {"question", "expectation", "base_name", "variants", "seeds"} - set(record)
  if missing:
    raise InputError(f"{path}: damaged, it has no {sorted(missing)[0]}")
  return record


def begin(study: Study, folder: pathlib.Path) -> StudyPlan:
  """Plans a study and records it, or compares it with what it was when it began.

  Args:
    study: the study.
    folder: its folder, made if need be.

  Raises:
    InputError: it cannot be planned, has changed since it began, or the folder cannot be written.
  """
  path = folder / FILE
  if not path.exists():
    planned = plan(study)
    try:
      folder.mkdir(parents=True, exist_ok=True)
      part = folder / f".{secrets.token_hex(8)}"
      write_json(part, _of(planned))
      with contextlib.suppress(FileExistsError):  # of processes that begin together, one records it
        os.link(part, path)
      part.unlink()
    except OSError as error:
      raise InputError(f"{path}: cannot be written: {error.strerror}") from None
  record = read_record(folder)
  try:
    steps = {name: int(config["num_train_steps"]) for name, config in record["variants"].items()}
  except (KeyError, TypeError, ValueError):
    raise InputError(f"{path}: damaged, a variant has no num_train_steps") from None
  names = [variant.name for variant in study.expanded()]
  differences = _differences("variants", list(record["variants"]), names)
  planned = plan(study, None if study.budget.steps or differences else steps)
  now = _of(planned)
  for name in now:
    if name != "variants":
      unknown = now[name] if name == "plugins" else None  # earlier versions did not note them
      differences += _differences(name, record.get(name, unknown), now[name])
  if not differences:
    for name, config in planned.configs.items():
      said = config_differences(record["variants"][name], config)
      differences += [f"variants.{name}.{difference}" for difference in said]
  if differences:
    raise InputError(
      f"{folder} holds this study as it was when it began, and it has changed since: "
      f"{'; '.join(differences)}. Use another --workdir"
    )
  return planned


def _differences(name: str, before: Any, now: Any) -> list[str]:
  """Where two values differ; tuples are as good as lists."""
  if isinstance(before, Mapping) and isinstance(now, Mapping):
    keys = sorted({*before, *now})
    return [d for key in keys for d in _differences(f"{name}.{key}", before.get(key), now.get(key))]
  if isinstance(now, tuple):
    now = list(now)
  return [] if before == now else [f"{name}: {before!r} → {now!r}"]
