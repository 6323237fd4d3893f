"""Where a run's GPUs are, on Rays of their own with GPUs that are only numbers."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

_BEGIN = """
import asyncio, os, sys, tempfile, time
from pathlib import Path
import ray
from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.errors import ConfigError
from ravst_ray.training import placement, rollout
from ravst_ray.training.placement import release, reserve
from ravst_ray.training.weight_check import Held
from ray.util import get_current_placement_group
from ray.util.placement_group import placement_group_table
from tests.test_rollout import LAPTOP

def settings(*more):
    given = ["output=out", "model=m", "sync.transport=object_store", "rollouts.num_cpus=0.5", "learner.num_cpus=0.5"]
    return load_config(TrainConfig, LAPTOP, [*given, *more])

def refused(config):
    started = time.monotonic()
    try:
        reserve(config)
    except ConfigError as error:
        return f"{error} after {'no time' if time.monotonic() - started < 5 else 'long'}"

def alive():
    return [one for one in placement_group_table().values() if one["state"] == "CREATED"]

@ray.remote(num_cpus=0)
class Holder:
    def cards(self):
        return ray.get_gpu_ids()
    def group(self):
        group = get_current_placement_group()
        return group and group.id.hex()

class Pooled(rollout.RolloutActor):
    def __init__(self, config):
        pass
    async def start(self, weights):
        pass
    async def quiet_s(self):
        return 0.0
    async def weights(self):
        return Held(0)
    async def where(self):
        group = get_current_placement_group()
        return (group.id.hex() if group else None, ray.get_gpu_ids())
"""


def told(script):
    """The lines that a script, run by itself after the beginning above, tells."""
    code = _BEGIN + script
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-4000:]
    return [line.removeprefix("TOLD ") for line in done.stdout.splitlines() if line.startswith("TOLD ")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_actors_are_placed_in_their_group_and_what_does_not_fit_is_told():
    lines = told("""
folder = Path(tempfile.mkdtemp())
(folder / "nvidia-smi").write_text("#!/bin/sh\\necho 81559\\necho 40960\\n")
(folder / "nvidia-smi").chmod(0o755)
os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
ray.init(address="local", num_cpus=4, num_gpus=4, include_dashboard=False, log_to_driver=False)
print("TOLD", placement.cards())  # though a task without GPUs sees none
placement.FREE_S = 0.5
print("TOLD", reserve(settings()))  # no GPUs: nothing to reserve
few = settings("rollouts.num_gpus=1", "learner.num_gpus=1", "rollouts.actors=3", "rollouts.min_actors=2")
many = settings("rollouts.num_gpus=1", "rollouts.actors=2", "learner.num_gpus=1", "learner.workers=2")
taken = Holder.options(num_gpus=2).remote()
ray.get(taken.cards.remote())
print("TOLD", refused(many))
ray.kill(taken)
placement.FREE_S = 30.0
group = reserve(few)
print("TOLD", group.bundle_count, group.bundle_specs[0])

async def work():
    pool = rollout.RolloutPool(few, Pooled, group)
    await pool.start()
    places = [await one.handle.where.remote() for one in sorted(pool._members, key=lambda one: one.seat)]
    print("TOLD", [place == group.id.hex() for place, _ in places], len({tuple(cards) for _, cards in places}))
    lost = pool._members[0]
    ray.kill(lost.handle)  # its place is kept for the next one
    pool._lose(lost, RuntimeError("died"))
    while not all(one.up for one in pool._members):
        await asyncio.sleep(0.1)
    back = next(one for one in pool._members if one.seat == lost.seat)
    print("TOLD", (await back.handle.where.remote())[0] == group.id.hex())
    await pool.resize(2)
    print("TOLD", sorted(one.seat for one in pool._members))

asyncio.run(work())
release(group)
while alive():
    time.sleep(0.1)
print("TOLD", len(alive()))
""")
    assert lines == [
        str([40960 * 2**20]),
        "None",
        "needs 4 GPUs: 2 learner + 2 rollout; of the cluster's 4 2 are free after no time",
        "2 {'CPU': 0.5, 'GPU': 1.0}",
        "[True, True, False] 3",
        "True",
        "[0, 1]",
        "0",
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_actor_that_no_node_can_hold_is_told_at_once_and_shared_cards_come_in_pairs():
    lines = told("""
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, "include_dashboard": False})
cluster.add_node(num_cpus=2, num_gpus=2)
ray.init(address=cluster.address, log_to_driver=False)
print("TOLD", refused(settings("rollouts.num_gpus=3", "learner.num_gpus=1", "engine.tensor_parallel=3")))
print("TOLD", placement.cluster_limit(), placement.cluster_capacity()["GPU"])
half = settings("rollouts.num_gpus=1", "learner.num_gpus=1")
print("TOLD", placement.has_room(half.rollouts), placement.has_room(half.rollouts.model_copy(update={"num_gpus": 9})))
ray.shutdown()
cluster.shutdown()
ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
shared = settings("rollouts.share_gpu=true", "rollouts.max_staleness=0", "rollouts.num_gpus=0.6",
                  "learner.num_gpus=0.4", "rollouts.actors=2", "learner.workers=2")
group = reserve(shared)

def placed(group, share, count):
    made = []
    for place in range(count):
        at = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)
        made.append(Holder.options(num_cpus=0.5, num_gpus=share, scheduling_strategy=at).remote())
    return made

actors = placed(group, 0.6, 2)
theirs = [ray.get(one.cards.remote()) for one in actors]
trains = placement_group([{"CPU": 0.5, "GPU": 0.4}] * 2)  # as Ray Train asks for its workers
ray.get(trains.ready())
learners = placed(trains, 0.4, 2)
print("TOLD", sorted(theirs), sorted(ray.get(one.cards.remote()) for one in learners))
""")
    assert lines == [
        "a rollout actor needs 0.5 CPUs and 3 GPUs on one node; none of the 2 has them after no time",
        "None 4.0",
        "True False",
        "[[0], [1]] [[0], [1]]",
    ]
