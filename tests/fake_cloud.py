"""cluster.yaml on one machine: Ray's real autoscaler, whose nodes are processes here and whose GPUs are only counted.

Run as a program it starts such a cluster, annotates on it with the README's command, watches the nodes until they are
gone, asks for as many GPUs as a training takes, and prints what it saw. ``tests/test_autoscaling.py`` does so in a
namespace of its own, where all ends with it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

from ravst_ray.language.local import free_port

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SMALL = {"cpu_worker": {"CPU": 2}, "gpu_worker": {"CPU": 1, "GPU": 1}, "train_worker": {"CPU": 2, "GPU": 8}}
"""Fewer CPUs than in cluster.yaml: Ray starts a process for each."""
MOST = 2
"""Nodes of a kind, for the same reason."""
IDLE_MIN = 0.25


class FakeCloud(FakeMultiNodeProvider):
    """Ray's own, with the name that cluster.yaml gives the head."""

    def __init__(self, provider_config: dict, cluster_name: str):
        super().__init__(provider_config, cluster_name)
        self._nodes[self._head_node_id]["tags"][TAG_RAY_USER_NODE_TYPE] = "head"


def cloud_config(gcs_address: str) -> dict:
    """cluster.yaml with the nodes on this machine."""
    found = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    kept = ("cluster_name", "max_workers", "upscaling_speed", "head_node_type", "available_node_types")
    config = {key: found[key] for key in kept}
    for name, kind in config["available_node_types"].items():
        kind["node_config"] = {}
        kind.pop("docker", None)
        kind["resources"] = SMALL.get(name, kind["resources"])
        kind["max_workers"] = min(kind.get("max_workers", 0), MOST)
    provider = {
        "type": "external",  # Ray's name for it, fake_multinode, wants a file that the wheel lacks
        "module": "tests.fake_cloud.FakeCloud",
        "gcs_address": gcs_address,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "launch_multiple": True,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    kinds = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    # All is here already.
    nothing = {f"{kind}_commands": [] for kind in kinds} | {"file_mounts": {}, "cluster_synced_files": [], "auth": {}}
    return {**config, **nothing, "provider": provider, "idle_timeout_minutes": IDLE_MIN}


class Cluster:
    """A head without CPUs and an autoscaler.

    Args:
        folder: for Ray's files and the configuration; its path must be short.
    """

    def __init__(self, folder: Path):
        self.address = f"127.0.0.1:{(port := free_port())}"
        path = folder / "cluster.yaml"
        path.write_text(yaml.safe_dump(cloud_config(self.address)))
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",  # as `ray up` does
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": "head",
        }
        command = [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
        more = [
            "--num-cpus=0",
            "--num-gpus=0",
            f"--autoscaling-config={path}",
            f"--temp-dir={folder}",
            "--include-dashboard=false",
            "--disable-usage-stats",
        ]
        ports = ["--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}"]
        self._start = {"args": [*command, *more, *ports], "env": environment, "stdout": sys.stderr}
        self.process = subprocess.Popen(**self._start)

    def connect(self, attempts: int = 5, within_s: float = 300.0) -> None:
        """Once it answers. Ray gives its own processes 30 s to start, which a busy machine may exceed: then anew."""
        import ray

        until = time.monotonic() + within_s
        while True:
            try:
                ray.init(address=self.address, log_to_driver=False)
                return
            except Exception:  # Ray's bare ones, while the head starts
                if time.monotonic() > until:
                    raise
                if self.process.poll() is not None:
                    attempts -= 1
                    if not attempts:
                        raise
                    self.process = subprocess.Popen(**self._start)
                time.sleep(2.0)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(100.0)
        self.process.kill()


def nodes_left(within_s: float = 300.0) -> int:
    """How many nodes there are when only the head is left, or when the time is over."""
    import ray

    until = time.monotonic() + within_s
    while (left := sum(node["Alive"] for node in ray.nodes())) > 1 and time.monotonic() < until:
        time.sleep(0.5)
    return left


def gpus_of_a_training_node() -> float:
    """GPUs of the node that takes what asks for eight at once."""
    import ray

    @ray.remote(num_cpus=1, num_gpus=8)
    def here() -> str:
        return ray.get_runtime_context().get_node_id()

    name = ray.get(here.remote(), timeout=300.0)
    return next(node["Resources"]["GPU"] for node in ray.nodes() if node["NodeID"] == name)


def main(output: str, command: list[str]) -> int:
    """Annotate, then watch the nodes until only the head is left, and those of a task that wants eight GPUs.

    Returns:
        The exit status of the annotation.
    """
    import ray

    from ravst_ray.cluster.nodes import NodeWatch
    from ravst_ray.datasets.node_log import NodeLog
    from ravst_ray.datasets.store import DatasetStore

    with tempfile.TemporaryDirectory(prefix="ravst", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.connect()
            environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster.address}
            done = subprocess.run(command, cwd=ROOT, env=environment)
            with NodeLog(DatasetStore(output)) as counts, NodeWatch(counts.add, every_s=1.0):
                left = nodes_left()
            print(json.dumps({"left": left}))
            print(json.dumps({"gpus": gpus_of_a_training_node(), "left": nodes_left()}))
            ray.shutdown()
        finally:
            cluster.end()
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
