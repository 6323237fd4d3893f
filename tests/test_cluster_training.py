"""A training whose nodes have disks of their own: data and output in an object store; the learner's node is lost."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from ravst_ray.language.local import free_port
from ravst_ray.training.run_store import RunStore
from tests.s3_server import BUCKET, s3_server
from tests.short_world import LOOPBACK
from tests.test_train import CONFIGS, arguments, data  # noqa: F401
from tests.tiny_policies import tiny_policy

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
WITHIN_S = 1500.0
OWN_DISK = ["unshare", "--mount", "--propagation=private", "sh", "-c"]
"""A mount namespace: what is mounted in it is there for what is started in it alone."""


NODE = """
import sys, threading
from ray._private.node import Node
from ray._private.parameter import RayParams
# As ray.cluster_utils adds one: the command line's way to a head on loopback goes around it.
given = {"gcs_address": sys.argv[1], "redis_address": sys.argv[1], "node_ip_address": "127.0.0.1"}
given |= {"temp_dir": sys.argv[2], "num_cpus": int(sys.argv[3]), "include_log_monitor": False}
ports = {"min_worker_port": 0, "max_worker_port": 0, "node_manager_port": 0, "dashboard_agent_listen_port": None}
Node(RayParams(**given, **ports), head=False)
print("Ray runtime started", flush=True)
threading.Event().wait()
"""


def may_mount():
    try:
        return subprocess.run([*OWN_DISK, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode == 0
    except OSError:
        return False


@contextmanager
def on_its_own_disk(folder, command, log, **environment):
    """A process that finds an empty disk at ``folder``, where its temporary files and models go."""
    prepared = f'mount -t tmpfs tmpfs "{folder}" && mkdir "{folder}/tmp" && exec "$@"'
    own = (
        os.environ
        | LOOPBACK
        | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), "TMPDIR": f"{folder}/tmp", "HF_HOME": f"{folder}/hf"}
    )
    with log.open("w") as out:
        process = subprocess.Popen(
            [*OWN_DISK, prepared, "sh", *map(str, command)], env=own | environment, cwd=ROOT, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        end(process)


def end(process):
    """A node with all that it started, at once, as when a machine goes."""
    if process.poll() is None:
        for one in (*psutil.Process(process.pid).children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait(60)


def has_started(log):
    """Until a node says so."""
    until = time.monotonic() + 300.0
    while "Ray runtime started" not in (said := log.read_text()):
        assert time.monotonic() < until and "Traceback" not in said, said[-3000:]
        time.sleep(0.2)


def learns(node):
    names = ((one.cmdline() or [""])[0] for one in psutil.Process(node.pid).children(recursive=True))
    return any(name.startswith("ray::RayTrainWorker") for name in names)


@pytest.fixture
def short():
    """A folder for Ray's files and a mount point; sockets lie below them, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.skipif(not may_mount(), reason="a disk of its own for each node needs the right to mount")
def test_a_training_goes_on_from_the_store_when_the_learners_node_is_lost(data, tmp_path, short, monkeypatch):  # noqa: F811
    model = tiny_policy(tmp_path / "policy", seed=2)
    disk, uri = short / "disk", f"s3://{BUCKET}"
    disk.mkdir()
    address = f"127.0.0.1:{(port := free_port())}"
    ray = [BIN / "ray", "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    head = [*ray, "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={short}/ray"]
    head += [f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0"]
    node = [sys.executable, "-c", NODE, address, short / "ray", 2]
    with s3_server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        for path in (data[0], *data[1].iterdir()):
            s3.put(f"data/{path.relative_to(tmp_path)}", path.read_bytes())
        for path in filter(Path.is_file, model.rglob("*")):
            s3.put(f"policy/{path.relative_to(model)}", path.read_bytes())
        shutil.rmtree(model)  # what is not in the store is nowhere
        shutil.rmtree(data[1])
        data[0].unlink()
        places = (f"{uri}/data/{data[0].name}", f"{uri}/data/{data[1].name}")
        more = [
            "learner.num_cpus=1.5",
            "rollouts.num_cpus=1.5",
            "max_steps=6",
            "keep_checkpoints=2",
            f"scratch={disk}/own",
        ]
        given = arguments(places, f"{uri}/policy", f"{uri}/run", *more)
        job = [sys.executable, "jobs/train_grpo.py", "--config", CONFIGS / "train_laptop.yaml", *given]
        log = tmp_path / "job.log"
        with on_its_own_disk(disk, head, tmp_path / "head.log"):
            has_started(tmp_path / "head.log")
            with ExitStack() as later:
                nodes = []
                for name in "abc":  # one after the other: a busy machine starts no three within Ray's 30 s
                    nodes.append(later.enter_context(on_its_own_disk(disk, node, tmp_path / f"{name}.log")))
                    has_started(tmp_path / f"{name}.log")
                run = later.enter_context(on_its_own_disk(disk, job, log, RAY_ADDRESS=address))
                until = time.monotonic() + WITHIN_S
                while "run/checkpoints/checkpoint-2/complete.json" not in s3.keys("run/"):
                    assert run.poll() is None and time.monotonic() < until, log.read_text()[-6000:]
                    time.sleep(0.2)
                (lost,) = [one for one in nodes if learns(one)]
                end(lost)
                assert run.wait(timeout=WITHIN_S) == 0, log.read_text()[-6000:]
        said = log.read_text()
        assert "learner worker 0 died" in said and "the run begins anew at checkpoint-" in said
        assert f"the trained model: {uri}/run/model" in said and "not shown in the report" not in said
        lines = [json.loads(line) for line in s3.get("run/metrics.jsonl").splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
        there = s3.keys("run/")
        assert {f"run/rollouts/step_{step:06d}.parquet" for step in range(1, 7)} <= set(there)
        assert [one.name for one in RunStore(f"{uri}/run", str(tmp_path)).whole_checkpoints()] == [
            "checkpoint-4",
            "checkpoint-6",
        ]
        assert b"<html" in s3.get("run/report.html") and any("tfevents" in name for name in there)
        assert {"run/model/config.json", "run/model/model.safetensors"} <= set(there)
    assert not list(disk.iterdir()) and not Path("s3:").exists(), "nothing lies on this machine's own disk"


DRIVER = """
import signal, time
import ray
from ray.cluster_utils import Cluster
from ravst_ray.cluster.nodes import beside_driver, settle

class Where:
    def node(self):
        return names[ray.get_runtime_context().get_node_id()]

cluster = Cluster()
try:
    local = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "dashboard_agent_listen_port": 0}
    nodes = {name: cluster.add_node(num_cpus=0, **local) for name in ("head", "gone")}
    names = {node.node_id: name for name, node in nodes.items()}
    ray.init(address=cluster.address, log_to_driver=False)
    raylet = nodes["gone"].all_processes["raylet"][0].process
    raylet.send_signal(signal.SIGSTOP)  # silent, as a machine without power is
    alive = lambda: sorted(names[node["NodeID"]] for node in ray.nodes() if node["Alive"])
    print("TOLD", alive(), flush=True)
    actors = [ray.remote(Where).options(**beside_driver()).remote() for _ in range(5)]
    print("TOLD", ray.get([one.node.remote() for one in actors]), flush=True)
    started = time.monotonic()
    settle()
    print("TOLD", alive(), time.monotonic() - started < 60, flush=True)
finally:
    ray.shutdown()
    cluster.shutdown()
"""


def test_what_is_beside_the_driver_never_goes_by_way_of_a_node_that_is_gone():
    sooner = {"RAY_health_check_timeout_ms": "5000", "RAY_health_check_failure_threshold": "3"}  # 23 s, not 65
    environment = os.environ | LOOPBACK | sooner | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", DRIVER], env=environment, capture_output=True, text=True, timeout=280)
    told = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    noticed_by_none, places = "TOLD ['gone', 'head']", f"TOLD {['head'] * 5}"
    assert told == [noticed_by_none, places, "TOLD ['head'] True"], done.stdout + done.stderr
