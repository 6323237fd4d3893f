"""The end of a run: cards are given back while other videos, or other steps, still work."""

import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
from ray.data._internal.execution.interfaces.execution_options import ExecutionResources

from ravst_ray.annotate.pipeline import stream
from ravst_ray.annotate.step import Step
from ravst_ray.cluster.tail import TailRequests
from ravst_ray.datasets.store import DatasetStore
from tests.test_pipeline import STUBS, StubGround, stub_config, videos

GPU, CPU = {"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0}


class Coordinator:
    """What Ray Data asks."""

    def __init__(self):
        self.asked = []

    def request_resources(self, **how):
        self.asked.append(how)

    def get_reserved_resources(self):
        return {"node": GPU}


def operator(needs: dict, actors: int | None, inputs_complete=False, waiting=0, completed=False):
    """An operator with a pool of so many actors (none: tasks), and its state."""
    made = SimpleNamespace(
        min_scheduling_resources=lambda: ExecutionResources.from_resource_dict(needs),
        get_autoscaling_actor_pools=lambda: [] if actors is None else [SimpleNamespace(current_size=lambda: actors)],
        has_completed=lambda: completed,
        _inputs_complete=inputs_complete,
    )
    return made, SimpleNamespace(total_enqueued_input_blocks=lambda: waiting)


class Hashable(SimpleNamespace):
    __hash__ = object.__hash__


def asked_for(operators, resources):
    coordinator = Coordinator()
    topology = {Hashable(**vars(one)): state for one, state in operators}
    TailRequests(coordinator, topology).request_resources(resources=resources, expire_after_s=180)
    ((how),) = coordinator.asked
    assert how.pop("expire_after_s") == 180, "as it was meant"
    return how["resources"]


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ({"inputs_complete": False, "waiting": 0}, 16),
        ({"inputs_complete": True, "waiting": 3}, 16),
        ({"inputs_complete": True, "waiting": 0}, 2),
        ({"completed": True}, 2),
    ],
    ids=["more comes", "some wait", "the last are at work", "done"],
)
def test_no_more_is_asked_for_than_there_are_actors_once_nothing_waits(state, kept):
    operators = [operator(CPU, 1, completed=False), operator(GPU, 2, **state)]
    assert asked_for(operators, [GPU] * 16 + [CPU]) == [GPU] * kept + [CPU]


def test_a_kind_of_bundle_that_another_step_still_needs_stays():
    operators = [operator(CPU, 0, completed=True), operator(CPU, 1), operator({"CPU": 0.1}, None)]
    assert asked_for(operators, [CPU] * 5 + [{"CPU": 0.1}] * 3) == [CPU] * 5 + [{"CPU": 0.1}] * 3


def test_a_pool_without_actors_asks_for_nothing():
    assert asked_for([operator(GPU, 0, completed=True), operator(CPU, 1)], [GPU, CPU]) == [CPU]


def test_everything_else_passes():
    assert TailRequests(Coordinator(), {}).get_reserved_resources() == {"node": GPU}


class Waits(Step):
    """Videos whose name begins so wait for a file, others take a moment."""

    def __init__(self, stage, inner, begins, file):
        self.stage, self._inner, self._begins, self._file = stage, inner, begins, file

    def process(self, item):
        time.sleep(0.2)
        while item.video.video_id.startswith(self._begins) and not self._file.exists():
            time.sleep(0.1)
        return self._inner.process(item) if self._inner else item


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_cards_are_free_while_other_videos_and_later_steps_are_at_work(tmp_path, monkeypatch):
    """Of two cards, one goes when only one video is left; the other when that is grounded, but not yet finished."""
    import ray

    ray.shutdown()
    grounded, finished = tmp_path / "grounded", tmp_path / "finished"
    monkeypatch.setattr("ravst_ray.annotate.quality.CheckQuality", lambda *_: Waits("quality", None, "slow", finished))
    DatasetStore(str(tmp_path / "out")).prepare()
    config = stub_config(tmp_path / "out")
    pool = config.actors.ground.model_copy(update={"max": 2, "num_cpus": 0.1, "num_gpus": 1.0})
    config = config.model_copy(update={"actors": config.actors.model_copy(update={"ground": pool})})
    steps = {**STUBS, "ground": partial(Waits, "ground", StubGround(), "slow", grounded)}
    names = [f"quick{index:02d}" for index in range(60)] + ["slow"]
    rows: list[dict] = []
    ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        run = threading.Thread(target=lambda: rows.extend(stream(config, videos(*names), steps)), daemon=True)
        run.start()
        wait_for_gpus(2, run)
        wait_for_gpus(1, run)
        grounded.touch()
        wait_for_gpus(0, run)
        finished.touch()
        run.join(200)
    finally:
        ray.shutdown()
    assert {row["video_id"]: row["reason"] for row in rows} == dict.fromkeys(names)


def wait_for_gpus(count: int, run: threading.Thread, within_s: float = 250.0) -> None:
    """Until so many are in use, while the run is at work."""
    import ray

    until = time.monotonic() + within_s
    while (used := 2 - ray.available_resources().get("GPU", 0.0)) != count:
        assert run.is_alive() and time.monotonic() < until, f"{used} GPUs in use, not {count}"
        time.sleep(0.2)
