"""Claims: one process alone has a piece of work, and a dead one's is taken over."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

import runs
from srflow_jax.errors import InputError
from srflow_jax.studies import claims

QUICK = claims.Timing(heartbeat=0.05, dead_after=1.0)


def of_another_host(folder, seconds_ago: float, heartbeat: float = 0.05):
  """Rewrites the highest claim as if a process of another machine had made it."""
  path = max((folder / claims.FOLDER).glob("*.json"))
  said = {"where": "process 7 on far", "host": "far", "heartbeat": heartbeat, "released": False}
  path.write_text(json.dumps(said))
  os.utime(path, (time.time() - seconds_ago,) * 2)
  return path


def test_one_alone_has_the_work_until_it_lets_go(tmp_path):
  claim = claims.take(tmp_path, QUICK)
  assert claim is not None and claim.taken_from == ""
  assert claims.take(tmp_path, QUICK) is None  # of the same process as well
  assert claims.holder(tmp_path).where.startswith(f"process {os.getpid()} on ")
  claim.release()
  assert claims.holder(tmp_path) is None
  again = claims.take(tmp_path, QUICK)
  assert again is not None and again.taken_from == ""
  again.release()


@pytest.mark.parametrize("seconds_ago", [0.0, 0.5])
def test_a_claim_that_was_touched_lately_is_left_alone(tmp_path, seconds_ago):
  claims.take(tmp_path, QUICK).release()
  of_another_host(tmp_path, seconds_ago)
  assert claims.take(tmp_path, QUICK) is None


def test_a_dead_machines_claim_is_taken_over_saying_how_old_it_is(tmp_path):
  claims.take(tmp_path, QUICK).release()
  of_another_host(tmp_path, seconds_ago=300)
  claim = claims.take(tmp_path, QUICK)
  assert claim is not None
  assert claim.taken_from.startswith("taken over from process 7 on far, silent for 3")
  claim.release()


def test_a_process_that_touches_its_claim_rarely_is_not_dead_for_that(tmp_path):
  claims.take(tmp_path, QUICK).release()
  of_another_host(tmp_path, seconds_ago=40, heartbeat=15)
  assert claims.take(tmp_path, QUICK) is None


def test_a_folder_that_is_away_for_a_while_does_not_end_the_touching(tmp_path, monkeypatch):
  claim, is_away, lost = claims.take(tmp_path, QUICK), threading.Event(), []
  exists = pathlib.Path.exists

  def away(path):
    if path.parent.name == claims.FOLDER and not is_away.is_set():
      is_away.set()
      raise OSError(errno.ESTALE, "stale")
    return exists(path)

  monkeypatch.setattr(pathlib.Path, "exists", away)
  with claims.held(claim, lost.append):
    assert is_away.wait(5)
    path = of_another_host(tmp_path, seconds_ago=300)
    end = time.monotonic() + 5
    while time.time() - path.stat().st_mtime > 100 and time.monotonic() < end:
      time.sleep(0.05)
    assert time.time() - path.stat().st_mtime < 100 and not lost


def test_a_machine_that_wakes_up_keeps_its_claim(tmp_path):
  """Its claim is old, but it is touched again while others look."""
  claims.take(tmp_path, QUICK).release()
  path = of_another_host(tmp_path, seconds_ago=300)
  slow = claims.Timing(heartbeat=0.3, dead_after=1.0)
  threading.Timer(0.2, os.utime, [path]).start()
  assert claims.take(tmp_path, slow) is None


def test_a_killed_process_of_this_machine_is_seen_at_once(tmp_path):
  code = (
    "import sys, pathlib; from srflow_jax.studies import claims\n"
    "claim = claims.take(pathlib.Path(sys.argv[1]), claims.Timing()); print('has it', flush=True)\n"
    "sys.stdin.read()"
  )
  command = [sys.executable, "-c", code, str(tmp_path)]
  pipe = subprocess.PIPE
  with subprocess.Popen(command, cwd=runs.ROOT, stdin=pipe, stdout=pipe) as process:
    assert process.stdout.readline() == b"has it\n"
    assert claims.take(tmp_path, claims.Timing()) is None  # it lives
    process.kill()
  claim = claims.take(tmp_path, claims.Timing())
  assert claim is not None and claim.taken_from.startswith(f"taken over from process {process.pid}")
  claim.release()


def test_who_stood_still_learns_that_the_work_is_taken(tmp_path):
  lost = threading.Event()
  claim = claims.take(tmp_path, QUICK)
  with claims.held(claim, lambda text: lost.set()):
    assert not lost.wait(0.2)
    (tmp_path / claims.FOLDER / "000002.json").write_text("{}")
    assert lost.wait(5)


def test_a_watched_claim_is_touched(tmp_path):
  claim = claims.take(tmp_path, QUICK)
  path = tmp_path / claims.FOLDER / "000001.json"
  os.utime(path, (0, 0))
  with claims.held(claim, print):
    end = time.monotonic() + 5
    while path.stat().st_mtime == 0 and time.monotonic() < end:
      time.sleep(0.02)
  assert path.stat().st_mtime > 0


def test_of_many_takers_one_wins(tmp_path):
  claims.take(tmp_path, QUICK).release()
  of_another_host(tmp_path, seconds_ago=300)
  won = []
  threads = [
    threading.Thread(target=lambda: won.append(claims.take(tmp_path, QUICK))) for _ in range(8)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  (winner,) = [claim for claim in won if claim is not None]
  winner.release()
  names = sorted(path.name for path in (tmp_path / claims.FOLDER).iterdir())
  assert names == ["000001.json", "000002.json"]


def test_a_damaged_claim_grows_old_as_others_do(tmp_path):
  (tmp_path / claims.FOLDER).mkdir()
  path = tmp_path / claims.FOLDER / "000001.json"
  path.write_text("{broken")
  assert claims.take(tmp_path, QUICK) is None
  os.utime(path, (0, 0))
  claim = claims.take(tmp_path, QUICK)
  assert claim is not None and "an unknown process" in claim.taken_from
  claim.release()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(InputError, match="cannot be written"):
    claims.take(tmp_path / "file", QUICK)
