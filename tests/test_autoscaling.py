"""Nodes come with the work and go after it: cluster.yaml's node types under Ray's autoscaler, on this machine."""

import os
import secrets
import subprocess
import sys

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from ravst_ray.annotate.run import refresh_report
from ravst_ray.annotate.settings import saved_config
from ravst_ray.datasets.node_log import read_nodes
from ravst_ray.datasets.store import DatasetStore
from tests.fake_cloud import ROOT, SMALL, cloud_config
from tests.short_world import LOOPBACK, answering, job, write_short_world

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

VIDEOS = 8
ALONE = ["unshare", "-Urmpf", "--mount-proc", "--kill-child"]
"""Namespaces of its own for processes and mounts: whatever a cluster leaves behind ends with them."""


def may_be_alone() -> bool:
    try:
        return subprocess.run([*ALONE, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def environment() -> dict[str, str]:
    """With a token on purpose: who has one at home would get a head that asks for it and drivers that don't give it."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN_PATH"} | LOOPBACK
    return kept | {"OPENAI_API_KEY": "none", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def test_the_nodes_are_those_of_the_cluster():
    config = prepare_config(cloud_config("127.0.0.1:1"))
    validate_config(config)
    kinds = config["available_node_types"]
    assert set(kinds) == {"head", "cpu_worker", "gpu_worker", "train_worker"}
    assert kinds["head"]["resources"] == {"CPU": 0} and kinds["gpu_worker"]["resources"] == SMALL["gpu_worker"]
    found = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    gpus = {name: kind["resources"].get("GPU", 0) for name, kind in found.items()}
    assert {name: kind["resources"].get("GPU", 0) for name, kind in kinds.items()} == gpus


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not may_be_alone(), reason="unshare may make no namespaces here (user, mount, process)")
def test_nodes_come_with_the_work_and_go_after_it(tmp_path):
    """It begins with the head, which has no CPU; ends with it; and takes the node that trains only for eight GPUs."""
    output = tmp_path / "out"
    write_short_world(tmp_path / "world", VIDEOS)
    with answering() as (endpoint, _):
        pools = [
            "actors.decode={min: 1, max: 2, num_cpus: 1}",  # no room for it beside grounding
            "actors.ground={min: 1, max: 2, num_cpus: 0.5, num_gpus: 1}",
            "llm.concurrency=2",
            "report_videos=2",
        ]
        places = (tmp_path / "world" / "labels.json", tmp_path / "world" / "videos", output)
        command = [sys.executable, *job(endpoint, *places, *pools)[1:]]
        inside = [*ALONE, sys.executable, "-m", "tests.fake_cloud", str(output), *map(str, command)]
        done = subprocess.run(
            inside, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=1700,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{VIDEOS} videos done, 0 failed" in done.stdout
    assert {'{"left": 1}', '{"gpus": 8.0, "left": 1}'} <= set(done.stdout.splitlines())
    counts = read_nodes(DatasetStore(str(output)))
    assert (counts[0].nodes, counts[0].gpu_nodes, counts[0].cpus) == (1, 0, 0.0), "the head alone"
    assert max(one.gpu_nodes for one in counts) in (1, 2) and max(one.gpus_used for one in counts) >= 1
    assert max(one.nodes - one.gpu_nodes for one in counts) >= 2, "a node that decodes"
    assert max(one.gpus for one in counts) <= 2, "not the node with eight that trains"
    assert (counts[-1].nodes, counts[-1].gpu_nodes) == (1, 0), "the head alone"
    refresh_report(saved_config(str(output)), {})
    page = (output / "report" / "index.html").read_text()
    assert 'aria-label="Nodes over time' in page and 'aria-label="GPUs over time' in page
