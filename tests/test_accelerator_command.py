"""`python -m benchmarks.accelerator`: to the last line on a CPU, and what it makes of failures."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks.accelerator_profile import summed
from benchmarks.accelerator_report import table

ROOT = pathlib.Path(__file__).resolve().parents[1]


def command(*flags):
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
  }
  return subprocess.run(
    [sys.executable, "-m", "benchmarks.accelerator", *flags],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )


def test_the_report_tells_of_failures_and_pairs_what_both_measured():
  row = {"model": "x4_da", "type": "bfloat16", "job": "train step, frozen encoder", "s": 0.5}
  theirs = {key: row[key] for key in ("type", "job")} | {"mode": "eager"}
  found = {
    "command": "python -m benchmarks.accelerator",
    "date": "today",
    "items": {
      "speed": {"status": "out of time", "error": None, "seconds": 9.0, "rows": [row]},
      "baseline": {
        "status": "done",
        "error": None,
        "seconds": 9.0,
        "rows": [theirs | {"s": 1.5}, theirs | {"error": "a | b"}],
      },
      "memory": {"status": "failed", "error": "OOM", "seconds": 1.0, "rows": []},
    },
  }
  text = table(found)
  assert "## speed: out of time, 9 s" in text and "## memory: failed, 1 s\n\n`OOM`" in text
  assert "| train step, frozen encoder | bfloat16 | eager | 0.5 | 1.5 | 3 |" in text
  assert "a / b" in text


@pytest.mark.slow
def test_every_item_on_a_cpu(tmp_path):
  script = tmp_path / "baseline.py"
  script.write_text("import sys\nassert sys.argv[1] == 'train'\nprint('{\"seconds\": 0.5}')\n")
  flags = [f"--out={tmp_path / 'out'}", "--minutes=30", "--small", f"--baseline={script}"]
  flags += ["--train=tests/runs.py", "--train_steps=20"]
  done = command(*flags)
  assert done.returncode == 0, done.stderr
  out = tmp_path / "out"
  items = json.loads((out / "accelerator.json").read_text())["items"]
  logs = {name: (out / f"{name}.log").read_text() for name in items}
  assert {name: item["status"] for name, item in items.items()} == dict.fromkeys(items, "done"), (
    logs
  )
  assert len(items) == 9 and all(item["rows"] for item in items.values())
  errors = [row for name in items for row in items[name]["rows"] if row.get("error")]
  # The script refuses samples: that is in the table, and stopped nothing.
  assert errors and all("sample" in row["job"] for row in errors), errors
  assert (out / "weights.safetensors").exists() and (out / "evaluation").is_dir()
  assert done.stdout.endswith((out / "accelerator.md").read_text() + "\n")


@pytest.mark.slow
def test_an_item_that_runs_out_of_time_does_not_stop_the_rest(tmp_path):
  script = tmp_path / "baseline.py"
  script.write_text("import time\ntime.sleep(1000)\n")
  flags = [f"--out={tmp_path / 'out'}", "--minutes=0.2", "--small", f"--baseline={script}"]
  done = command(*flags, "--items=speed,baseline")
  assert done.returncode == 0, done.stderr
  items = json.loads((tmp_path / "out" / "accelerator.json").read_text())["items"]
  assert [item["status"] for item in items.values()] == ["out of time"] * 2


@pytest.mark.parametrize(
  ("flag", "said"),
  [
    ("--items=speed,nothing", "--items: unknown: nothing"),
    ("--items=baseline", "it needs --baseline"),
    ("--baseline=nowhere.py", "no such file"),
  ],
)
def test_what_cannot_be_done_is_refused(flag, said, tmp_path):
  done = command(f"--out={tmp_path / 'out'}", flag)
  assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
  assert not (tmp_path / "out").exists()


def test_a_device_is_busy_while_at_least_one_kernel_runs():
  """In nanoseconds, of two runs: two kernels overlap, one lies within another, then a gap."""
  events = [("a", 0e6, 4e6), ("b", 2e6, 4e6), ("a", 3e6, 1e6), ("c", 10e6, 2e6)]
  found = summed(events, runs=2)
  assert found.busy == pytest.approx(4) and found.span == pytest.approx(6)
  assert found.by_name == {"a": (2.5, 1), "b": (2, 0.5), "c": (1, 0.5)}


def test_the_result_of_each_test_is_emitted_as_it_ends(tmp_path):
  (tmp_path / "test_it.py").write_text(
    "import pytest\n"
    "def test_good(record_property): record_property('error', 0.5)\n"
    "def test_bad(): assert 1 == 2, 'the reason'\n"
    "@pytest.mark.skip(reason='no data')\n"
    "def test_skipped(): pass\n"
  )
  program = (
    "import json, pytest\n"
    "from benchmarks.accelerator_items import Reports\n"
    "emit = lambda **row: print('ROW', json.dumps(row))\n"
    f"pytest.main(['{tmp_path}', '-p', 'no:cacheprovider', '-s'], plugins=[Reports(emit)])\n"
  )
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
  lines = [line.partition("ROW ")[2] for line in done.stdout.splitlines() if "ROW " in line]
  good, bad, skipped = map(json.loads, lines)
  assert (good["test"], good["result"], good["error"]) == ("test_good", "passed", 0.5)
  assert bad["result"] == "failed" and "the reason" in bad["message"]
  assert skipped["result"] == "skipped" and "no data" in skipped["message"]
