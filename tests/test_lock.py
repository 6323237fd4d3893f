"""One run at a time in an output directory."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from ravst_ray.datasets import lock as locks
from ravst_ray.datasets.lock import LOCK, Holder, OutputLock, read_holder
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import AbortError, ConfigError

HOLD = """
import sys, time
from ravst_ray.datasets.lock import OutputLock
from ravst_ray.datasets.store import DatasetStore
with OutputLock(DatasetStore(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path) -> DatasetStore:
    made = DatasetStore(str(tmp_path / "out"))
    made.prepare()
    return made


@pytest.fixture
def other_process(store):
    """A process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, store.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def plant(store: DatasetStore, **changed) -> Holder:
    """The lock of another run."""
    holder = replace(OutputLock(store).own, run_id="other", host="elsewhere", pid=4711, machine="another", **changed)
    store.write_bytes(LOCK, json.dumps(asdict(holder)).encode())
    return holder


def test_a_lock_tells_who_holds_it_and_goes_with_its_run(store):
    with OutputLock(store) as lock:
        holder = read_holder(store)
        assert (holder.run_id, holder.host, holder.pid) == (lock.own.run_id, socket.gethostname(), os.getpid())
        assert holder.why_dead() is None
    assert read_holder(store) is None
    with pytest.raises(ZeroDivisionError), OutputLock(store):
        raise ZeroDivisionError
    assert read_holder(store) is None


def test_a_second_run_is_refused_and_told_by_whom(store, other_process):
    with pytest.raises(ConfigError) as refused, OutputLock(store):
        pytest.fail("it was let in")
    message = str(refused.value)
    assert f"process {other_process.pid}" in message and socket.gethostname() in message
    assert "choose another output" in message and f"ravst status {store.root}" in message
    assert read_holder(store).pid == other_process.pid, "the holder keeps it"


def test_the_lock_of_a_killed_process_is_taken_over(store, other_process, caplog):
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert read_holder(store).pid == other_process.pid
    with OutputLock(store) as lock:
        assert read_holder(store).run_id == lock.own.run_id
    assert f"process {other_process.pid} is gone" in caplog.text


def test_a_later_process_of_the_same_number_is_no_holder(store):
    own = OutputLock(store).own
    assert own.why_dead() is None
    assert replace(own, process_start=own.process_start - 1).why_dead() == f"its process {os.getpid()} is gone"
    assert replace(own, machine="another", process_start=1).why_dead() is None


@pytest.mark.parametrize(("age_s", "dead"), [(0, False), (299, False), (301, True), (-3600, False)])
def test_a_run_on_another_machine_is_judged_by_its_heartbeat(store, age_s, dead):
    plant(store, heartbeat_at=time.time() - age_s)
    if dead:
        with OutputLock(store) as lock:
            assert read_holder(store).run_id == lock.own.run_id
    else:
        with pytest.raises(ConfigError, match=r"run other \(host elsewhere, process 4711\)"), OutputLock(store):
            pass


def test_the_heartbeat_goes_on(store):
    with OutputLock(store, heartbeat_s=0.02):
        first = read_holder(store).heartbeat_at
        until = time.monotonic() + 10
        while read_holder(store).heartbeat_at <= first:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_run_whose_lock_was_taken_over_stops(store):
    with OutputLock(store, heartbeat_s=60) as lock:
        lock.check()
        plant(store)
        lock.check()  # not looked yet
        with pytest.raises(AbortError, match="run other on elsewhere has taken it over"):
            lock.check(now=True)
    assert read_holder(store).run_id == "other", "the other's lock stays"


def test_a_damaged_lock_is_none(store):
    store.write_bytes(LOCK, b'{"run_id": ')
    with OutputLock(store):
        pass


def _race(root: str, start, results) -> None:
    start.wait()
    try:
        with OutputLock(DatasetStore(root)):
            results.put("in")
            time.sleep(1.0)
    except ConfigError:
        results.put("out")


def test_of_many_that_come_at_once_one_gets_it(store):
    plant(store, heartbeat_at=0.0)  # stale: all may take it over
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(6), context.Queue()
    racers = [context.Process(target=_race, args=(store.root, start, results)) for _ in range(6)]
    for racer in racers:
        racer.start()
    found = sorted(results.get(timeout=30) for _ in racers)
    for racer in racers:
        racer.join(timeout=30)
    assert found == ["in", *["out"] * 5]


def test_of_two_in_an_object_store_the_last_to_write_goes_on(store, monkeypatch):
    """There the lock is read again after a pause; a file system that hides that it is one stands for the store."""
    monkeypatch.setattr(DatasetStore, "local_root", None)
    monkeypatch.setattr(locks, "SETTLE_S", 0.5)
    threading.Timer(0.1, plant, [store]).start()
    with pytest.raises(ConfigError, match="run other"), OutputLock(store):
        pass
    assert read_holder(store).run_id == "other"
