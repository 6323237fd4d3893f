"""Two learner workers make the update that one makes, over gloo, with DDP and with FSDP2; and what FSDP2's write."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch.distributed.checkpoint import FileSystemReader

from ravst_ray.config.base import dump_config, load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.training.export import export_model
from ravst_ray.training.run_store import CHECKPOINTS, RunStore
from ravst_ray.training.sharded import MOMENTS, WEIGHTS
from tests.s3_server import BUCKET
from tests.tiny_policies import load_tiny, tiny_policy

LAPTOP = Path(__file__).parents[1] / "jobs" / "configs" / "train_laptop.yaml"


def run(model, out, loss, world, shard, *more, **variables):
    """The last weights of a run of three steps, in a world of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.learner_worker", str(model), str(out), loss, shard, *more]
    workers = []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        environment = {**os.environ, **variables, **(place if world > 1 else {})}
        workers.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    try:
        said = [worker.communicate(timeout=400)[0].decode()[-4000:] for worker in workers]
        killed = [9] if shard == "shard" else [0]  # rank 1, by itself, at its end
        assert [worker.returncode for worker in workers] == [0, *killed][:world], "\n\n".join(said)
    finally:
        for worker in workers:
            worker.kill()
    return end(out, "state", world, shard)


def end(out, name, world=2, shard="shard"):
    return load_file(out / f"{name}_{world}_{shard}.safetensors")


def furthest(one, other):
    return max(float(np.abs(one[name] - other[name]).max()) for name in one.keys() & other.keys())


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy"), seed=6)


@pytest.fixture(scope="module")
def sharded(policy, tmp_path_factory, s3_once):
    """Where two sharded workers have run; one of the runs is in the bucket."""
    out = tmp_path_factory.mktemp("sharded")
    run(policy, out, "dapo", 2, "shard", **s3_once.environment)
    return out


@pytest.fixture(scope="module")
def alone(policy, sharded):
    """The last weights of one worker; it also went on from a checkpoint of the two."""
    return run(policy, sharded, "dapo", 1, "ddp", str(sharded / "run" / CHECKPOINTS / "checkpoint-2"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_make_the_update_of_one(policy, sharded, alone, tmp_path):
    start = {name: value.numpy() for name, value in load_tiny(policy)[0].state_dict().items()}
    assert furthest(start, alone) > 1e-3
    for together in (end(sharded, "state"), run(policy, tmp_path, "dapo", 2, "ddp")):
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            assert np.abs(together[name] - value).max() < 1e-5, name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sharded_run_goes_on_where_it_was(sharded, alone):
    """Weights, moments and rate come back: in the same world, in another, and from what earlier versions wrote.

    From a bucket, too, where each worker had written its part, to disks that hold nothing.
    """
    straight = end(sharded, "state")
    for name in ("apart", "resumed_apart"):
        assert furthest(straight, end(sharded, name)) < 1e-6
    assert furthest(straight, end(sharded, "resumed_earlier")) < 1e-6
    assert furthest(alone, end(sharded, "resumed", 1, "ddp")) < 1e-5
    adapted = end(sharded, "adapter")
    assert furthest(adapted, end(sharded, "adapter_resumed")) < 1e-6
    assert furthest(adapted, straight) > 1e-3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sharded_checkpoint_holds_what_learns_once(policy, sharded):
    """Float32 weights and Adam's two moments, without a twin, a base or a frozen tower."""
    model = load_tiny(policy)[0]
    every = {name: weight.numel() for name, weight in model.named_parameters()}
    assert model.config.tie_word_embeddings and "lm_head.weight" not in every
    language = [size for name, size in every.items() if not name.startswith("model.visual.")]
    linear = [one for name, one in model.named_modules() if "language_model" in name and name.endswith("_proj")]
    adapter = [4 * width for one in linear for width in one.weight.shape]
    for run_name, step, learns in (("run", 3, [*every.values()]), ("frozen", 1, language), ("adapter", 3, adapter)):
        folder = sharded / run_name / CHECKPOINTS / f"checkpoint-{step}"
        index = {
            part: FileSystemReader(folder / part).read_metadata().state_dict_metadata for part in (WEIGHTS, MOMENTS)
        }
        held = {
            part: sum(one.size.numel() * one.properties.dtype.itemsize for one in tensors.values())
            for part, tensors in index.items()
        }
        assert held == {WEIGHTS: 4 * sum(learns), MOMENTS: 8 * sum(learns) + 4 * len(learns)}, "the last: Adam's count"
        parts = {path: path.stat().st_size for path in folder.rglob("*.distcp")}
        assert len(parts) == 4, "of each rank"
        pieces = 2 * 3 * len(learns) + len(learns)
        assert 0 < sum(parts.values()) - sum(held.values()) < 2048 * pieces, "torch's frame of each piece"
        rest = sum(path.stat().st_size for path in folder.rglob("*") if path not in parts and path.is_file())
        assert rest < 3 * 2**17, "nothing that learns is elsewhere"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_checkpoint_that_is_being_written_when_a_worker_is_killed_does_not_count(sharded):
    store = RunStore(str(sharded / "killed"))
    assert (store.local / CHECKPOINTS / "checkpoint-3" / "trainer_state.json").exists()
    assert [one.step for one in store.whole_checkpoints()] == [1, 2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("run_name", ["run", "adapter", "apart"])
def test_a_sharded_checkpoint_becomes_a_model_without_ranks(policy, sharded, run_name, tmp_path, s3):
    lora = ["learner.lora.rank=4"] if run_name == "adapter" else []
    given = [f"model={policy}", f"output={sharded}", "data.annotations=a", "data.videos=v", "learner.shard=true"]
    given += ["learner.freeze_vision=false", "learner.dtype=float32", "max_steps=3", "learner.workers=2", *lora]
    config = load_config(TrainConfig, LAPTOP, given)
    place = f"s3://{BUCKET}/{run_name}" if run_name == "apart" else str(sharded / run_name)
    RunStore(place).write("config.yaml", dump_config(config))
    model, _ = load_tiny(Path(export_model(place, target=str(tmp_path / "model"))))
    assert not any("optimizer_0" in path for method, path in s3.requests if method == "GET"), (
        "it takes the weights alone"
    )
    made = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    expected = end(sharded, "state" if run_name == "run" else run_name)
    assert made.keys() <= expected.keys() and furthest(made, expected) < 1e-6
