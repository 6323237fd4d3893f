"""Two learner workers make the update that one makes: over gloo, with DDP and with FSDP2."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.tiny_policies import load_tiny, tiny_policy


def run(model, out, loss, world, shard):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.learner_worker", str(model), str(out), loss, shard]
    workers = []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        environment = {**os.environ, **(place if world > 1 else {})}
        workers.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    try:
        for worker in workers:
            text = worker.communicate(timeout=250)[0].decode()
            assert worker.returncode == 0, text[-4000:]
    finally:
        for worker in workers:
            worker.kill()
    return load_file(out / f"state_{world}_{shard}.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_make_the_update_of_one(tmp_path):
    loss = "dapo"
    model = tiny_policy(tmp_path / "policy", seed=6)
    start = {name: value.numpy() for name, value in load_tiny(model)[0].state_dict().items()}
    alone = run(model, tmp_path, loss, 1, "ddp")
    moved = max(float(np.abs(alone[name] - value).max()) for name, value in start.items() if name in alone)
    assert moved > 1e-3
    for shard in ("ddp", "shard"):
        together = run(model, tmp_path, loss, 2, shard)
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            assert np.abs(together[name] - value).max() < 1e-5, (shard, name)
