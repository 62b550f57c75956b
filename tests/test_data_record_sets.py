"""A data set's own files are checked before they are used, and none of them runs code."""

import json
import shutil
import sys

import numpy as np
import pytest

from srflow_jax.data.plan import SplitInputs, images_per_shard
from srflow_jax.data.prepare import prepare
from srflow_jax.data.record_files import RecordFiles
from srflow_jax.data.record_sets import open_set
from srflow_jax.data.records import RecordSource
from srflow_jax.data.verify import verify
from srflow_jax.errors import InputError
from srflow_jax.images import write_png

SHARD = "super_resolution_tiles-train.array_record-00000-of-00003"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  """A prepared set of three shards."""
  folder = tmp_path_factory.mktemp("original")
  rng = np.random.default_rng(0)
  for number in range(20):
    write_png(folder / f"photos/{number:02d}.png", rng.integers(0, 256, (16, 24, 3), np.uint8))
  prepare(folder / "set", {"train": SplitInputs([str(folder / "photos")])}, [2, 4], 16, 0, 1)
  return folder / "set"


@pytest.fixture
def copied(original, tmp_path):
  return shutil.copytree(original, tmp_path / "set")


def use(folder):
  """As training does."""
  source = RecordSource(folder, "train", 4, 16, 0)
  return [source[index] for index in range(len(source))]


def edit(path, change):
  content = json.loads(path.read_text())
  changed = change(content)
  path.write_text(json.dumps(content if changed is None else changed))


EVIL = "evil_payload.Feature"
TFDS = "tensorflow_datasets.core.features"


def as_root(content):
  content["pythonClassName"] = EVIL


def as_feature(content):
  content["featuresDict"]["features"]["hr"]["pythonClassName"] = EVIL


def in_snake_case(content):
  feature = content["featuresDict"]["features"]["hr"]
  del feature["pythonClassName"]
  feature["python_class_name"] = EVIL


def in_a_sequence(content):
  inner = content["featuresDict"]["features"]["hr"] | {"pythonClassName": EVIL}
  content["featuresDict"]["features"]["extra"] = {
    "pythonClassName": f"{TFDS}.sequence_feature.Sequence",
    "sequence": {"feature": inner, "length": "-1"},
  }


def in_a_dictionary(content):
  content["featuresDict"]["features"]["extra"] = {
    "pythonClassName": f"{TFDS}.features_dict.FeaturesDict",
    "featuresDict": {"features": {"x": {"pythonClassName": EVIL, "text": {}}}},
  }


def as_json(content):
  inner = {"x": {"type": EVIL, "content": {}, "proto_cls": ""}}
  content["featuresDict"]["features"]["extra"] = {
    "pythonClassName": f"{TFDS}.features_dict.FeaturesDict",
    "jsonFeature": {"json": json.dumps(inner)},
  }


def in_the_old_form(content):
  return {"type": EVIL, "content": {}}


def nested_in_the_old_form(content):
  return {
    "type": f"{TFDS}.features_dict.FeaturesDict",
    "content": {"hr": {"type": EVIL, "content": {}}},
  }


ATTACKS = [
  as_root,
  as_feature,
  in_snake_case,
  in_a_sequence,
  in_a_dictionary,
  as_json,
  in_the_old_form,
  nested_in_the_old_form,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_set_does_not_run_the_code_that_it_brings(copied, monkeypatch, attack):
  """As a set that was downloaded beside `train.py`, from where Python imports."""
  mark = copied / "payload_ran"
  (copied / "evil_payload.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
  monkeypatch.syspath_prepend(copied)
  edit(copied / "features.json", attack)
  for function in (use, open_set, lambda folder: verify(folder, 1)):
    with pytest.raises(InputError, match=r"features\.json: a feature of class .*not read: only T"):
      function(copied)
  assert not mark.exists() and "evil_payload" not in sys.modules
  __import__("evil_payload")  # the payload would have worked
  assert mark.exists()
  del sys.modules["evil_payload"]


def test_features_and_modules_in_the_description_are_not_used(copied, monkeypatch):
  mark = copied / "payload_ran"
  (copied / "evil_payload.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
  monkeypatch.syspath_prepend(copied)
  feature = {"pythonClassName": EVIL, "text": {}}
  more = {"features": feature, "moduleName": "evil_payload"}
  edit(copied / "dataset_info.json", lambda content: content | more)
  assert len(use(copied)) == 40
  assert not mark.exists() and "evil_payload" not in sys.modules


def entry(content):
  return next(iter(content["shards"].values()))


def image(content):
  return content["images"]["train"][0]


META, INFO, FEATURES = "metadata.json", "dataset_info.json", "features.json"
GONE = object()


def put(*path):
  """Sets a value in a file, or takes it away."""
  *keys, last, value = path

  def change(content):
    for key in keys:
      content = next(iter(content.values())) if key is any else content[key]
    last_key = next(iter(content)) if last is any else last
    if value is GONE:
      del content[last_key]
    else:
      content[last_key] = value

  return change


# File, what is changed in it (or its whole content), and the line that says so.
EDITS = [
  (META, put("scales", GONE), "missing key {}.scales"),
  (META, put("scales", []), "{}: scales is empty"),
  (META, put("scales", "4"), "{}.scales is '4': it must be a list"),
  (META, put("scales", [2, "4"]), "{}.scales[1] is '4': it must be a whole number"),
  (META, put("scales", [5]), "{}.scales is (5,): it must be one of 2, 3, 4, 8, 16"),
  (META, put("scales", [2]), "features.json: changed since it was written"),
  (META, put("digest", GONE), "missing key {}.digest"),
  (META, put("digest", 5), "{}.digest is 5: it must be a text"),
  (META, put("digest", ""), "{}: changed since it was written"),
  (META, put("shards", GONE), "missing key {}.shards"),
  (META, put("shards", {}), "{}.shards is empty"),
  (META, put("shards", []), "{}.shards is []: it must be a block of fields"),
  (
    META,
    put("shards", any, None),
    "super_resolution_tiles-train.array_record-00000-of-00003",
  ),
  (META, put("shards", any, "records", 0), "records is 0: it must be at least 1"),
  (META, put("shards", any, "records", -3), "records is -3: it must be at least 1"),
  (
    META,
    put("shards", any, "records", 7),
    "dataset_info.json: its shards are not those",
  ),
  (META, put("shards", any, "sha256", "0"), "{}: changed since it was written"),
  (META, put("shards", any, "inputs", None), "inputs is None: it must be a text"),
  (META, put("shards", any, GONE), "{}: changed since it was written"),
  (META, put("images", GONE), "missing key {}.images"),
  (META, put("images", "train", {}), "{}.images.train is no list of images"),
  (
    META,
    put("images", "train", 0, "name", "../../x"),
    "name is '../../x': it must be a path",
  ),
  (
    META,
    put("images", "train", 0, "name", "/x"),
    "name is '/x': it must be a path inside",
  ),
  (META, put("images", "train", 0, "size", [1]), "size is [1]: it must be height and width"),
  (META, put("images", "train", 0, "tiles", 99), "{}: its images of split train are not its tiles"),
  (META, put("smallest_tile", {}), "{}: no smallest_tile of split train"),
  (META, put("smallest_tile", "train", [16]), "{}.smallest_tile.train is [16]: it must be height"),
  (
    META,
    put("lr_rounding", "up"),
    "lr_rounding is 'up': it must be one of 'half_away'",
  ),
  (META, put("more", 1), "unknown key {}.more"),
  (META, b"", "{}: damaged, it is no JSON"),
  (META, b"[]", "{} is []: it must be a block of fields"),
  (META, None, "{}: cannot be read: No such file or directory"),
  (INFO, b"", "{}: damaged, it is no JSON"),
  (INFO, b"[]", "{}: damaged, it is no JSON object"),
  (INFO, b"null", "{}: damaged"),
  (INFO, put("splits", GONE), "{}: it names no split"),
  (INFO, put("splits", "train"), "{}: damaged"),
  (INFO, put("splits", 0, "name", ""), "{}: split '' has no records"),
  (INFO, put("splits", 0, "name", "test"), "{}: its shards are not those of metadata.json"),
  (INFO, put("splits", 0, "shardLengths", []), "{}: split 'train' has no records"),
  (INFO, put("splits", 0, "shardLengths", ["0", "0", "0"]), "{}: split 'train' has no records"),
  (INFO, put("splits", 0, "shardLengths", ["-3", "9", "9"]), "{}: split 'train' has no records"),
  (INFO, put("splits", 0, "shardLengths", ["x"]), "{}: damaged"),
  (INFO, put("splits", 0, "shardLengths", ["16", "16", "9"]), "{}: its shards are not those of me"),
  (INFO, put("splits", 0, "filepathTemplate", "/etc/passwd"), "'train' names the file"),
  (
    INFO,
    put("splits", 0, "filepathTemplate", "../{SPLIT}"),
    "{}: split 'train' names the file ../",
  ),
  (INFO, put("splits", 0, "filepathTemplate", "{WHAT}"), "{}: damaged"),
  (INFO, put("fileFormat", "tfrecord"), "prepared as tfrecord, which needs TensorFlow to read"),
  (INFO, put("fileFormat", GONE), "prepared as tfrecord, which needs TensorFlow to read"),
  (INFO, put("name", "../x"), "{}: split 'train' names the file ../x-train.array_record-00000"),
  (FEATURES, b"", "{}: damaged, it is no JSON"),
  (FEATURES, b"{}", "{}: a feature of class (none)"),
  (FEATURES, None, "{}: cannot be read: No such file or directory"),
  (FEATURES, put("featuresDict", "features", "hr", GONE), "{}: changed since it was written"),
  (
    FEATURES,
    put("featuresDict", "features", "hr", "tensor", "dtype", "int64"),
    "{}: changed since it was written",
  ),
  (FEATURES, put("featuresDict", "features", "hr", "tensor", "dtype", "x"), "{}: damaged"),
]


@pytest.mark.parametrize("name, change, line", EDITS, ids=range(len(EDITS)))
def test_each_damage_of_a_sets_description_is_one_line(copied, name, change, line):
  path = copied / name
  if change is None:
    path.unlink()
  elif isinstance(change, bytes):
    path.write_bytes(change)
  else:
    edit(path, change)
  for function in (use, lambda folder: verify(folder, 1)):  # what training refuses, verify does
    with pytest.raises(InputError) as caught:
      function(copied)
    message = str(caught.value)
    assert line.replace("{}", str(path)) in message and "\n" not in message
    assert str(copied) in message


def test_a_set_that_does_not_say_how_it_was_rounded_is_read_as_an_old_one(copied):
  assert open_set(copied).metadata.lr_rounding == "half_away"
  edit(copied / META, put("lr_rounding", GONE))
  assert open_set(copied).metadata.lr_rounding == "half_even"
  assert len(use(copied)) == 40


@pytest.mark.parametrize(
  "damage, line",
  [
    (lambda path: path.unlink(), "missing from the data set"),
    (lambda path: path.write_bytes(b""), "damaged, it holds 0 records where 16 were written"),
    (lambda path: path.write_bytes(path.read_bytes()[:200]), "damaged"),
    (lambda path: path.write_bytes(b"\0" * 2**17), "damaged"),
    (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "missing from the data set"),
    (lambda path: (path.unlink(), path.mkdir()), "missing from the data set"),
    (
      lambda path: shutil.copy(path.with_name(path.name.replace("00000-", "00002-")), path),
      "damaged, it holds 8 records where 16 were written",
    ),
  ],
)
def test_each_damage_of_a_shard_is_one_line(copied, damage, line):
  damage(copied / SHARD)
  for function in (use, lambda folder: verify(folder, 1)):
    with pytest.raises(InputError) as caught:
      function(copied)
    message = str(caught.value)
    assert message.startswith(f"{copied / SHARD}: {line}") and "\n" not in message


def test_few_files_are_open_at_a_time(original):
  shards = open_set(original).split("train")
  assert len(shards.files) == 3
  records = RecordFiles(shards, max_open=2)
  order = np.random.default_rng(0).permutation(len(records))
  reference = RecordFiles(shards)
  assert [records[i] for i in order] == [reference[i] for i in order]
  assert len(records._readers) == 2 and len(reference._readers) == 3
  with pytest.raises(IndexError):
    records[len(records)]


@pytest.mark.parametrize(
  "num_images, per_shard", [(1, 8), (800, 8), (2048, 8), (2049, 9), (12_000, 47)]
)
def test_a_set_of_many_images_has_few_files(num_images, per_shard):
  assert images_per_shard(num_images) == per_shard
  assert -(-num_images // per_shard) <= 256
