"""Shells that lack something: a home that can be written, a short path for temporary files, a cluster that answers."""

import os
import pwd
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ravst_ray import surroundings
from ravst_ray.cluster.start import cluster_address, joins_cluster, start_ray, wait_for_cluster
from ravst_ray.errors import AbortError, ConfigError

ROOT = Path(__file__).parents[1]
SET_THERE = ("HOME", "RAY_TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TRITON_HOME", "HF_HOME")
SET_THERE += ("PYTHONSAFEPATH", "RAVST_CACHE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "TMPDIR")


@pytest.fixture
def environ(monkeypatch, tmp_path):
    """The environment that :func:`prepare_surroundings` finds and changes: only a home, which can be written."""
    monkeypatch.setattr(os, "environ", {key: value for key, value in os.environ.items() if key not in SET_THERE})
    monkeypatch.setattr(surroundings.tempfile, "tempdir", str(tmp_path))
    os.environ["HOME"] = str(tmp_path)
    surroundings.prepare_surroundings.cache_clear()
    yield os.environ
    surroundings.prepare_surroundings.cache_clear()


def test_nothing_is_changed_where_nothing_lacks(environ):
    before = dict(environ)
    surroundings.prepare_surroundings()
    assert environ == before | {"PYTHONSAFEPATH": "1"}


def test_a_long_temporary_folder_is_replaced_for_sockets(environ, caplog, monkeypatch):
    def prepared(**given):
        caplog.clear()
        environ.update(given)
        surroundings.prepare_surroundings.cache_clear()
        surroundings.prepare_surroundings()
        return environ.pop("RAY_TMPDIR", None), environ.pop("TMPDIR")

    monkeypatch.setattr(surroundings, "_SHORT", ("/nowhere", "/dev/shm"))
    long, longer = "/tmp/" + 30 * "x", "/tmp/" + 65 * "x"  # 35, and Ray's own part is 72; 70, and vLLM's is 37
    assert prepared(TMPDIR=long) == (None, long) and not caplog.text
    assert prepared(TMPDIR=long + "x") == ("/dev/shm", long + "x")
    assert "x is too long for Ray's sockets (at most 35 characters): this run has RAY_TMPDIR=/dev/shm" in caplog.text
    assert prepared(TMPDIR=longer) == ("/dev/shm", longer)
    assert prepared(TMPDIR=longer + "x") == ("/dev/shm", "/dev/shm")
    assert prepared(TMPDIR=longer, RAY_TMPDIR="/data") == ("/data", longer) and not caplog.text
    monkeypatch.setattr(surroundings, "_SHORT", ("/nowhere",))
    with pytest.raises(ConfigError, match="set RAY_TMPDIR to a directory that can be written and whose path has at mo"):
        prepared(TMPDIR=longer)


def test_a_home_that_can_be_read_stays_and_caches_go_elsewhere(environ, caplog, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    can_write = surroundings._can_write
    monkeypatch.setattr(surroundings, "_can_write", lambda folder: folder != home and can_write(folder))
    environ |= {"HOME": str(home), "TRITON_HOME": "/mine"}
    surroundings.prepare_surroundings()
    folder = tmp_path / f"ravst-cache-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (environ["HOME"], environ["HF_HOME"]) == (str(home), str(home / ".cache" / "huggingface"))
    assert (environ["XDG_CACHE_HOME"], environ["TRITON_HOME"]) == (str(folder), "/mine")
    assert environ["RAVST_CACHE"] == str(folder / "ravst_ray")
    assert len(environ["RAY_AUTH_TOKEN"]) == 64
    assert f"({home}) can't be written: caches are kept in {folder}" in caplog.text


def test_modules_of_the_working_directory_are_named(environ, tmp_path, monkeypatch, caplog):
    for name in ("types.py", "mine.py", "notes.txt"):
        (tmp_path / name).touch()
    for name in ("av", "my_package", "data"):
        (tmp_path / name).mkdir()
    for name in ("av", "my_package"):
        (tmp_path / name / "__init__.py").touch()
    assert surroundings.hidden_modules(tmp_path) == ["av", "types.py"]
    assert surroundings.hidden_modules(ROOT) == []
    monkeypatch.chdir(tmp_path)
    surroundings.prepare_surroundings()
    assert "take av, types.py for those that are needed: start the run from another directory" in caplog.text


def test_no_home_at_all(environ, tmp_path, monkeypatch):
    """As of a container whose user has no name and no home; another's folder is not trusted."""

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        environ.pop(name, None)
    folder = tmp_path / f"ravst-cache-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    surroundings.prepare_surroundings()
    assert environ["HOME"] == environ["XDG_CACHE_HOME"] != str(folder)
    assert Path(environ["HOME"]).parent == tmp_path and environ["USER"] == str(os.getuid())


def test_an_empty_address_is_none(monkeypatch):
    for value, address in (("", "local"), (" ", "local"), ("local", "local"), ("10.0.0.1:6379", "10.0.0.1:6379")):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert cluster_address() == address and joins_cluster() == (address != "local")
    monkeypatch.delenv("RAY_ADDRESS")
    assert not joins_cluster()


@pytest.mark.parametrize("prefix", ["", "ray://"])
@pytest.mark.parametrize("listens", [False, True], ids=["closed", "mute"])
def test_a_cluster_that_does_not_answer_is_given_up(prefix, listens, monkeypatch, caplog):
    monkeypatch.setattr("ravst_ray.cluster.start.SAY_S", 0.3)
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        if not listens:
            server.close()
        monkeypatch.setattr("ray.is_initialized", lambda: False)
        monkeypatch.setenv("RAY_ADDRESS", f"{prefix}127.0.0.1:{port}")
        started = time.monotonic()
        with pytest.raises(
            AbortError, match=rf":{port} \(RAY_ADDRESS=.*\) within 0.8 s: start it, .*or unset RAY_ADDR"
        ):
            start_ray(wait_s=0.8)
        assert 0.7 < time.monotonic() - started < 5
    assert f":{port} (RAY_ADDRESS={prefix}127.0.0.1:{port}); waiting for it, 0.8 s at most" in caplog.text


def test_an_address_that_a_dead_cluster_has_left(monkeypatch, tmp_path):
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}\n")
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)  # those that other tests have started
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(
        AbortError, match=rf"no Ray cluster answered at [\d.]+:{port} \(RAY_ADDRESS=auto\) within 0.2 s"
    ):
        wait_for_cluster("auto", 0.2)


def test_an_address_that_is_none(monkeypatch):
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS=nonsense: .*it is HOST:PORT, or unset to start Ray here"):
        wait_for_cluster("nonsense", 1.0)


HOSTILE = """
import ray
from ravst_ray.cluster.start import start_ray, wait_for_cluster
start_ray(cpus=1)
assert ray.get(ray.remote(lambda: 7).remote()) == 7
wait_for_cluster(ray.get_runtime_context().gcs_address, 10.0)
print("all well")
"""


@pytest.mark.timeout(240)
def test_ray_starts_without_a_home_with_a_long_temporary_folder_and_an_empty_address(tmp_path):
    """And from a directory with modules that are named as Python's and others' are."""
    for name in ("types.py", "av.py", "ray.py", "grpc.py"):
        (tmp_path / name).write_text("raise ImportError('this is mine')\n")
    long = tmp_path / (120 * "x")
    long.mkdir()
    bare = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    bare |= {"HOME": "/proc/1", "TMPDIR": str(long), "RAY_ADDRESS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", HOSTILE], cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0 and done.stdout == "all well\n", done.stderr[-3000:]
    assert "is too long for Ray's sockets" in done.stderr and "the home directory (/proc/1)" in done.stderr
