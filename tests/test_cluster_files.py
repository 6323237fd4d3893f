"""cluster.yaml as Ray's launcher reads it, and what a submitted job takes along."""

import copy
import re
import zipfile
from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory
from ray.autoscaler._private.util import prepare_config, validate_config

from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.training.memory import estimate

ROOT = Path(__file__).parents[1]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
WORKERS = {name: kind for name, kind in CLUSTER["available_node_types"].items() if name != CLUSTER["head_node_type"]}


def test_ray_accepts_it():
    validate_config(prepare_config(copy.deepcopy(CLUSTER)))
    broken = copy.deepcopy(CLUSTER)
    broken["idle_timeout"] = broken.pop("idle_timeout_minutes")
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(broken))


def test_versions_are_those_of_the_project():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    special = [kind["docker"]["worker_image"] for kind in WORKERS.values() if "docker" in kind]
    images = [CLUSTER["docker"]["image"], *special]
    assert len(images) == 3 and all(f":{pins['ray']}-py311" in image for image in images)
    uv = re.search(r"uv==[\d.]+", (ROOT / "Makefile").read_text())[0]
    assert any(uv in command for command in CLUSTER["setup_commands"])


def test_workers_come_when_there_is_work_and_go():
    assert all(kind["min_workers"] == 0 and kind["max_workers"] >= 1 for kind in WORKERS.values())
    assert sum(kind["max_workers"] for kind in WORKERS.values()) <= CLUSTER["max_workers"]
    assert 0 < CLUSTER["idle_timeout_minutes"] <= 10
    assert CLUSTER["available_node_types"]["head"]["resources"] == {"CPU": 0}, "no work runs on the head"
    spot = {name for name, kind in WORKERS.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"cpu_worker", "gpu_worker"}


def test_an_annotation_fits_the_nodes_that_are_meant_for_it():
    """Ray's autoscaler takes the costly training node for what the others have no room for."""
    pools = load_config(AnnotateConfig, ROOT / "jobs" / "configs" / "annotate_cluster.yaml", []).actors
    cpu, gpu = WORKERS["cpu_worker"], WORKERS["gpu_worker"]
    on_cpus = sum(pool.max * pool.num_cpus for pool in (pools.decode, pools.llm))
    assert on_cpus <= cpu["max_workers"] * cpu["resources"]["CPU"] * 0.75, "the rest is for Ray Data's tasks"
    a_node = min(gpu["resources"]["CPU"] // pools.ground.num_cpus, gpu["resources"]["GPU"] // pools.ground.num_gpus)
    assert pools.ground.max <= gpu["max_workers"] * a_node


NODES_GIB = {"p4d.24xlarge": (39.5, 1152), "p4de.24xlarge": (79.2, 1152), "p5.48xlarge": (79.2, 2048)}
"""Of a card, as nvidia-smi shows it, and of main memory."""
TRAININGS = [path for path in sorted((ROOT / "jobs" / "configs").glob("train_*.yaml")) if "laptop" not in path.stem]


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_a_training_fits_cards_memory_and_disk_of_its_node(path):
    """By the estimate; a tenth is left for what it doesn't count, and 100 GiB of the disk for images and models."""
    node = WORKERS["train_worker"]["node_config"]
    card_gib, host_gib = NODES_GIB[node["InstanceType"]]
    budget = estimate(load_config(TrainConfig, path, []))
    assert budget is not None
    assert budget.card <= 0.9 * card_gib * 2**30
    assert budget.host.total <= 0.9 * host_gib * 2**30
    disk = node["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]
    assert budget.disk.total + 100 * 2**30 <= disk * 2**30


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_how_ray_is_started(key):
    stop, start = CLUSTER[key]
    assert stop == "ray stop"
    assert "export RAY_AUTH_MODE=token" in start
    assert int(re.search(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", start)[1]) >= 60
    assert "0.0.0.0" not in start
    if "--head" in start:
        assert "--dashboard-host=127.0.0.1" in start
    assert ". ~/.ravst_env" in start, "keys come from the nodes' environment"


def test_no_port_is_opened():
    assert "security_group" not in CLUSTER["provider"]
    assert not any(key in (ROOT / "cluster.yaml").read_text() for key in ("IpPermissions", "sk-", "AKIA"))


def fits(need: dict[str, float]) -> list[str]:
    return [name for name, kind in WORKERS.items() if all(kind["resources"].get(k, 0) >= v for k, v in need.items())]


def most(worker: str, resource: str) -> int:
    return WORKERS[worker]["max_workers"] * WORKERS[worker]["resources"][resource]


def test_the_annotation_fits_the_nodes():
    config = load_config(AnnotateConfig, ROOT / "jobs" / "configs" / "annotate_cluster.yaml")
    for pool in (config.actors.decode, config.actors.llm, config.actors.ground):
        assert fits({"CPU": pool.num_cpus, "GPU": pool.num_gpus})
    ground, decode = config.actors.ground, config.actors.decode
    assert fits({"CPU": ground.num_cpus, "GPU": ground.num_gpus})[0] == "gpu_worker"
    assert ground.max * ground.num_gpus <= most("gpu_worker", "GPU")
    assert decode.max * decode.num_cpus <= most("cpu_worker", "CPU")


def test_the_training_fits_the_nodes():
    config = load_config(TrainConfig, ROOT / "jobs" / "configs" / "train_8gpu.yaml")
    gpus = config.rollouts.actors * config.rollouts.num_gpus + config.learner.workers * config.learner.num_gpus
    node = WORKERS["train_worker"]["resources"]
    assert gpus <= most("train_worker", "GPU")
    cpus = config.rollouts.actors * config.rollouts.num_cpus + config.learner.workers * config.learner.num_cpus
    assert cpus <= node["CPU"]


def test_a_job_takes_little_along(tmp_path):
    """The very code by which ``ray job submit --working-dir .`` packs."""
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    with zipfile.ZipFile(package) as packed:
        names = packed.namelist()
        toys = sum(one.compress_size for one in packed.infolist() if "/checkpoints/" in one.filename)
    assert package.stat().st_size < 22 * 2**20
    assert package.stat().st_size - toys < 3 * 2**20, "all but the toy world's models"
    for name in ("jobs/annotate.py", "jobs/configs/annotate_cluster.yaml", "ravst_ray/cli.py", "pyproject.toml"):
        assert name in names
    assert any(name.startswith("ravst_ray/toyworld/checkpoints/") for name in names), "the laptop's models"
    assert any(name.endswith(".html.j2") for name in names), "the report's templates"
    for folder in (".git/", ".venv/", "out/", "tests/", ".cache/"):
        assert not [name for name in names if name.startswith(folder)], folder
    assert get_uri_for_directory(str(ROOT), include_gitignore=True).startswith("gcs://_ray_pkg_")


def manifests() -> dict[str, dict]:
    """The Kubernetes manifests of the README, by kind."""
    blocks = re.findall(r"```yaml\n(apiVersion: .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return {found["kind"]: found for found in map(yaml.safe_load, blocks)}


@pytest.mark.skipif("kind: RayCluster" not in (ROOT / "README.md").read_text(), reason="no manifests there yet")
def test_the_manifests_of_the_readme():
    found = manifests()
    assert set(found) == {"RayCluster", "RayJob"}
    config = load_config(AnnotateConfig, ROOT / "jobs" / "configs" / "annotate_cluster.yaml")
    for spec in (found["RayCluster"]["spec"], found["RayJob"]["spec"]["rayClusterSpec"]):
        assert spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"] is True
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
        assert all(group["minReplicas"] == 0 < group["maxReplicas"] for group in groups.values())
        pods = [spec["headGroupSpec"]["template"], *(group["template"] for group in groups.values())]
        for (container,) in (pod["spec"]["containers"] for pod in pods):
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert container["envFrom"] == [{"secretRef": {"name": "ravst-env"}}], "keys come from a secret"
        limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] >= config.actors.ground.num_gpus
        assert int(limits["cpu"]) >= config.actors.ground.num_cpus
    assert "env_vars" not in found["RayJob"]["spec"]["runtimeEnvYAML"]
    _, script, option, path, *_ = found["RayJob"]["spec"]["entrypoint"].split()
    assert (ROOT / script).is_file() and option == "--config" and (ROOT / path).is_file()
