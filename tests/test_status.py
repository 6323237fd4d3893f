"""``ravst status`` and ``ravst retry``: a run as its user sees it."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from ravst_ray import cli
from ravst_ray.annotate import pipeline
from ravst_ray.annotate import status as statuses
from ravst_ray.annotate.run import annotate, retry
from ravst_ray.annotate.settings import saved_config
from ravst_ray.annotate.status import RunRecord, Status, read_status
from ravst_ray.config.base import dump_config
from ravst_ray.datasets.lock import LOCK, OutputLock
from ravst_ray.datasets.store import DatasetStore, LedgerEntry
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.progress import Rate
from tests.stub_run import run_without_ray, stub_config, write_labels
from tests.test_store import item, put

ROOT = Path(__file__).parents[1]
QUIET = Console(quiet=True)


@pytest.fixture
def store(tmp_path) -> DatasetStore:
    made = DatasetStore(str(tmp_path / "out"))
    made.prepare()
    return made


def entry(name: str, reason: str | None = None) -> LedgerEntry:
    return LedgerEntry(name, reason is None, False, {}, {"reason": reason} if reason else None)


# --- what is written and read ---


def test_rate_over_a_window():
    now = [0.0]
    rate = Rate(window_s=10.0, clock=lambda: now[0])
    for second in (1.0, 2.0, 3.0, 4.0):
        now[0] = second
        rate.add()
    assert rate.per_s() == 4 / 4.0
    now[0] = 12.5
    assert rate.per_s() == 2 / 10.0, "those of second 3 and 4"
    now[0] = 100.0
    assert rate.per_s() == 0.0


def test_a_running_run_tells_what_is_left_and_when(store, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(statuses, "WRITE_EVERY_S", 0.0)
    monkeypatch.setattr(statuses, "Rate", partial(Rate, clock=lambda: now[0]))
    ledger = {"a": entry("a"), "b": entry("b", "truncated"), "c": entry("c", "llm_unreachable")}
    with OutputLock(store) as lock, RunRecord(store, lock) as record:
        assert read_status(store.root).state == "running", "also before it knows what there is to do"
        record.plan(ledger, ["c", "d", "e", "f"], [{"reason": "too_long"}, {"reason": "too_long"}])
        found = read_status(store.root)
        assert (found.done, found.failed, found.rejected, found.left) == (1, {"truncated": 1}, {"too_long": 2}, 4)
        assert found.expected_finish_at is None, "nothing is known of its speed"
        now[0] = 4.0
        record.add(None)
        record.add("truncated")
        found = read_status(store.root)
        assert (found.state, found.done, found.failed, found.left) == ("running", 2, {"truncated": 2}, 2)
        assert found.run_id == lock.own.run_id
        assert found.rate_per_s == 0.5, "2 in 4 s"
        assert found.expected_finish_at == pytest.approx(found.updated_at + 2 / 0.5, abs=1.0)
        record.add(None), record.add(None)
    found = read_status(store.root)
    assert (found.state, found.done, found.failed, found.left) == ("finished", 4, {"truncated": 2}, 0)
    assert found.expected_finish_at is None


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (AbortError("the key is refused"), "aborted", "the key is refused"),
        (ZeroDivisionError("a fault of ours"), "aborted", "ZeroDivisionError: a fault of ours"),
        (KeyboardInterrupt(), "stopped", ""),
        (SystemExit(15), "stopped", ""),
    ],
)
def test_how_a_run_ended(store, error, state, message):
    with pytest.raises(type(error)), OutputLock(store) as lock, RunRecord(store, lock):
        raise error
    found = read_status(store.root)
    assert (found.state, found.message) == (state, message)
    assert "the same `ravst annotate` command goes on" in found.to_text()


def test_a_dead_run_is_counted_from_the_store(store):
    """It wrote down nothing after its plan, and three videos were committed."""
    for one in (item("a"), item("b", "truncated"), item("c")):
        put(store, one)
    lock = OutputLock(store)
    with lock:
        record = RunRecord(store, lock)
        record.plan({}, list("abcdef"), [])
        left_behind = store.read_bytes(LOCK)
    assert read_status(store.root).message == "the run ended without a word: its lock is gone"
    foreign = json.loads(left_behind) | {"machine": "another", "heartbeat_at": time.time() - 60}
    store.write_bytes(LOCK, json.dumps(foreign).encode())
    assert read_status(store.root).state == "running", "a minute of silence is nothing"
    store.write_bytes(LOCK, json.dumps(foreign | {"heartbeat_at": time.time() - 1000}).encode())
    found = read_status(store.root)
    assert (found.state, found.done, found.failed, found.left) == ("died", 2, {"truncated": 1}, 3)
    assert "no sign of life for 1000 s" in found.message


def test_a_store_that_is_away_costs_no_run(store, monkeypatch, caplog):
    with OutputLock(store) as lock, RunRecord(store, lock) as record:
        with monkeypatch.context() as patch:
            patch.setattr(DatasetStore, "replace_bytes", lambda *_: (_ for _ in ()).throw(OSError("503")))
            record.plan({}, ["a"], [])
        record.add(None)
    assert "could not be written: 503" in caplog.text
    assert read_status(store.root).done == 1


def test_a_run_that_was_taken_over_writes_nothing_more(store):
    with pytest.raises(AbortError, match="has taken it over"), OutputLock(store) as first, RunRecord(store, first):
        store.delete(LOCK)  # as if it had been silent for long
        with OutputLock(store) as second, RunRecord(store, second):
            with pytest.raises(AbortError):
                first.check(now=True)
            assert read_status(store.root).run_id == second.own.run_id
        first.check()
    found = read_status(store.root)
    assert (found.state, found.run_id) == ("finished", second.own.run_id)


def test_how_it_ended_is_written_though_there_is_no_room_for_a_draft(store, monkeypatch):
    with pytest.raises(AbortError), OutputLock(store) as lock, RunRecord(store, lock):
        monkeypatch.setattr(DatasetStore, "replace_bytes", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        raise AbortError("no space left")
    assert (read_status(store.root).state, read_status(store.root).message) == ("aborted", "no space left")


def test_text():
    status = Status("out", "finished", "r1", "host", 7, 0.0, 3725.0, 1200, {"truncated": 2, "x": 1}, {}, 0, 0.5)
    assert status.to_text().splitlines() == [
        "out: finished (run r1 on host, process 7, 1970-01-01 00:00:00 UTC to 1970-01-01 01:02:05 UTC, 1 h 02 min)",
        "done      1,200",
        "failed    3: truncated 2, x 1",
        "rejected  0",
        "left      0",
        "rate      0.50 videos/s",
        "`ravst retry out` does the failed videos again",
    ]


def test_no_run_there(tmp_path, capsys):
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "no run of ravst annotate has begun there" in capsys.readouterr().err
    assert cli.main(["retry", str(tmp_path)]) == 2
    assert "no config.yaml there" in capsys.readouterr().err


# --- whole runs with stubbed models ---


@pytest.fixture
def stubbed(tmp_path, monkeypatch):
    """A finished run in which two videos failed for a passing reason, one for another."""
    monkeypatch.chdir(ROOT)
    run_without_ray(monkeypatch, tmp_path / "healed")
    write_labels(tmp_path / "labels.json", "good1", "good2", "ill1", "ill2", "cut1", "../escape")
    annotate(stub_config(tmp_path), QUIET)
    return DatasetStore(str(tmp_path / "out"))


def errors(store: DatasetStore) -> dict[str, str]:
    return {row["video_id"]: row["reason"] for row in store.rows("errors")}


def healed(store: DatasetStore) -> dict[str, str]:
    return {row["video_id"]: dict(row["provenance"])["healed"] for row in store.rows("annotations")}


FAILED = {"ill1": "decode_deadline", "ill2": "decode_deadline", "cut1": "truncated", "../escape": "unsafe_id"}


def test_retry_by_reason_then_all(stubbed, tmp_path, capsys):
    assert errors(stubbed) == FAILED
    assert cli.main(["status", stubbed.root, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["done"], told["left"]) == ("finished", 2, 0)
    assert (told["failed"], told["rejected"]) == ({"decode_deadline": 2, "truncated": 1}, {"unsafe_id": 1})

    with pytest.raises(ConfigError, match=r"failed with typo; there is: decode_deadline \(2\), truncated \(1\)"):
        retry(stubbed.root, ["truncated", "typo"], [], QUIET)
    assert read_status(stubbed.root).state == "finished", "a refused retry leaves no trace"
    assert read_status(stubbed.root).run_id == told["run_id"]

    retry(stubbed.root, [], [], QUIET)  # nothing has changed: all fail again
    assert errors(stubbed) == FAILED

    (tmp_path / "healed").touch()
    assert cli.main(["retry", stubbed.root, "--reason", "truncated"]) == 0
    assert errors(stubbed) == {name: FAILED[name] for name in ("ill1", "ill2", "../escape")}
    assert healed(stubbed) == {"good1": "False", "good2": "False", "cut1": "True"}, "others were not touched"

    summary = retry(stubbed.root, [], ["decode.deadline_s=7"], QUIET)
    assert summary["videos"] == {"input": 6, "kept": 5, "done": 5, "failed": 0}
    assert errors(stubbed) == {"../escape": "unsafe_id"}
    assert healed(stubbed) == {"good1": "False", "good2": "False", "cut1": "True", "ill1": "True", "ill2": "True"}
    assert saved_config(stubbed.root).decode.deadline_s == 7
    with pytest.raises(ConfigError, match="begun with other settings"):
        retry(stubbed.root, [], ["grounding.box_threshold=0.1"], QUIET)


def test_a_run_that_goes_on_reads_the_ledger_once(stubbed, monkeypatch, tmp_path):
    """It is a request for each video that was not yet compacted."""
    asked = []
    ledger = DatasetStore.ledger
    monkeypatch.setattr(DatasetStore, "ledger", lambda self: asked.append(self.root) or ledger(self))
    annotate(stub_config(tmp_path), QUIET)
    assert asked == [stubbed.root]


def test_an_errors_row_stays_until_its_video_is_done_again(stubbed, monkeypatch):
    """The run dies after one of the two videos; the other's row is there all the time."""
    seen = []

    def die_after_one(config, todo, tell):
        seen.append(errors(stubbed))
        put(stubbed, item("ill1"))
        yield {"video_id": "ill1", "reason": None, "frames": 0.0}
        seen.append(errors(stubbed))
        raise AbortError("the power went")

    monkeypatch.setattr("ravst_ray.annotate.pipeline.stream", die_after_one)
    with pytest.raises(AbortError):
        retry(stubbed.root, ["decode_deadline"], [], QUIET)
    assert seen == [FAILED, FAILED]
    ledger = stubbed.ledger()
    assert ledger["ill1"].ok and ledger["ill2"].error["reason"] == "decode_deadline"
    found = read_status(stubbed.root)
    assert (found.state, found.message, found.done, found.left) == ("aborted", "the power went", 3, 1)
    assert "the same `ravst retry` command goes on" in found.to_text()
    stubbed.compact()
    assert set(errors(stubbed)) == {"ill2", "cut1"}


def test_a_video_that_was_damaged_after_its_commit_is_no_finished_run(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    run_without_ray(monkeypatch, tmp_path / "healed")
    write_labels(tmp_path / "labels.json", "good1", "good2")
    stream, units = pipeline.stream, tmp_path / "out" / "_commit" / "units"

    def damaging(config, todo, tell):
        yield from stream(config, todo)
        part = next(units.glob("good1*.parquet"))
        part.write_bytes(part.read_bytes()[:-1])

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "stream", damaging)
        with pytest.raises(AbortError, match=r"of 1 videos was damaged \(good1\); the same command does them again"):
            annotate(stub_config(tmp_path), QUIET)
    store = DatasetStore(str(tmp_path / "out"))
    assert read_status(store.root).state == "aborted" and set(healed(store)) == {"good2"}
    annotate(stub_config(tmp_path), QUIET)
    assert read_status(store.root).state == "finished" and set(healed(store)) == {"good1", "good2"}


@pytest.mark.parametrize("content", [b"", b"{: [", b"no mapping"])
def test_a_configuration_that_was_cut_short_bars_no_output(stubbed, tmp_path, content, caplog):
    stubbed.write_bytes("config.yaml", content)
    annotate(stub_config(tmp_path), QUIET)
    assert "config.yaml can't be read; it is written anew" in caplog.text
    assert saved_config(stubbed.root) == stub_config(tmp_path)


def test_an_output_can_not_have_a_key_sent_to_an_endpoint_of_its_own(stubbed, tmp_path, monkeypatch, capsys):
    """Whoever can write there would get it; who runs the command has to name the endpoint."""
    url = "https://llm.example.org/v1"
    stubbed.replace_bytes(
        "config.yaml", dump_config(stub_config(tmp_path, "llm.backend=openai", f"llm.base_url={url}")).encode()
    )
    assert saved_config(stubbed.root).llm.base_url == url, "there is no key to lose"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    assert cli.main(["retry", stubbed.root]) == 2
    said = capsys.readouterr().err
    assert f"add llm.base_url={url} to the command" in said and "sk-planted" not in said
    with pytest.raises(ConfigError, match="would have your OPENAI_API_KEY sent"):
        saved_config(stubbed.root, ["llm.timeout_s=9"])
    assert saved_config(stubbed.root, [f"llm.base_url={url}"]).llm.base_url == url
    assert saved_config(stubbed.root, ["llm.backend=local"]).llm.base_url == url, "it asks its own server"
    monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/")
    assert saved_config(stubbed.root).llm.base_url == url


def test_two_runs_on_one_output(stubbed, tmp_path, capsys):
    with OutputLock(stubbed) as lock:
        with pytest.raises(ConfigError, match=lock.own.run_id):
            annotate(stub_config(tmp_path), QUIET)
        assert cli.main(["retry", stubbed.root]) == 2
        assert "choose another output" in capsys.readouterr().err
    annotate(stub_config(tmp_path), QUIET)


STOPPABLE = """
import sys, time
from pathlib import Path
from ravst_ray import cli
from ravst_ray.annotate import pipeline
from tests.stub_run import stub_steps
from tests.test_pipeline import StubGround

class Slow(StubGround):
    done = 0

    def process(self, item):
        if self.done:  # whichever video came first
            time.sleep(600)
        self.done += 1
        return super().process(item)

steps = {**stub_steps(Path("/nowhere")), "ground": Slow}
pipeline.build_steps = lambda config: steps
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_from_outside(tmp_path, how):
    write_labels(tmp_path / "labels.json", "good1", "good2")
    config = stub_config(tmp_path)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "run.py").write_text(STOPPABLE)
    command = [sys.executable, str(tmp_path / "run.py"), "annotate", "--config", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        units = tmp_path / "out" / "_commit" / "units"
        until = time.monotonic() + 600
        while not list(units.glob("*.json")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        assert read_status(config.output).state == "running"
        process.send_signal(how)
        said = process.communicate(timeout=200)[1]
    finally:
        process.kill()
    found = read_status(config.output)
    if how == signal.SIGTERM:
        assert process.returncode == 1, said
        assert "the same command goes on from here" in said
        assert "*** SIGTERM received" not in said, "Ray's own handler aborts the process three seconds later"
        assert (found.state, found.left) == ("stopped", 1)
        assert not (tmp_path / "out" / LOCK).exists()
    else:
        assert (found.state, found.done, found.left) == ("died", 1, 1)
        assert f"its process {process.pid} is gone" in found.message
