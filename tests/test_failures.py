"""Whatever a process of a run dies of, its class and message are in what the run says; with a real Ray."""

import os
import threading

import pytest
import ray

from ravst_ray.cluster.failures import crossing, plain_error
from ravst_ray.config.sft import SftRunConfig
from ravst_ray.config.video_llm import PredictConfig
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.evaluation import predict
from ravst_ray.training import sft_run

pytestmark = pytest.mark.timeout(300)
ADVICE = "first line\nsecond line\n\nTo change retry attempts, configure `max_retries`"


class Locked(Exception):
    """Can't be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class Halves(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def fail(kind):
    if kind == "value":
        raise ValueError("no such layer: fc9")
    if kind == "lines":
        raise RuntimeError(ADVICE)
    if kind == "locked":
        raise Locked("it holds a lock")
    if kind == "halves":
        raise Halves("one", "two")
    if kind == "bare":
        raise KeyError
    if kind == "chained":
        try:
            fail("value")
        except ValueError as error:
            raise OSError("weights.bin can't be read") from error
    if kind == "own":
        try:
            raise ConfigError("model: can't be loaded\n  (a second line)")
        except ConfigError as error:
            raise RuntimeError("a library's wrapper") from error
    os._exit(3)


class Init:
    def __init__(self, kind):
        fail(kind)

    def call(self, kind):
        pass


class Method:
    def call(self, kind):
        fail(kind)


class Outer:
    """Asks another actor, as the manager asks the rollout actors."""

    async def call(self, inner, kind):
        await inner.call.remote(kind)


SAID = {
    "value": "ValueError: no such layer: fc9 (in {who})",
    "lines": "RuntimeError: first line second line To change retry attempts, configure `max_retries` (in {who})",
    "locked": "{module}Locked: it holds a lock (in {who})",
    "halves": "{module}Halves: one and two (in {who})",
    "bare": "KeyError (in {who})",
    "chained": "OSError: weights.bin can't be read (in {who})",
}


def test_the_exception_of_an_actor_is_told_through_another_one_too(local_ray):
    outer = ray.remote(Outer).options(num_cpus=0, max_concurrency=20).remote()
    method = ray.remote(Method).options(num_cpus=0).remote()
    asked = [(method, Method, kind) for kind in (*SAID, "own")]
    asked += [(ray.remote(Init).options(num_cpus=0).remote(kind), Init, kind) for kind in ("lines", "halves", "own")]
    asked += [(ray.remote(Method).options(num_cpus=0).remote(), Method, "exit")]
    calls = {}
    for actor, who, kind in asked:
        calls[who.__name__, kind, "outer"] = outer.call.remote(actor, kind)
        if kind != "exit":  # a second call would find nobody
            calls[who.__name__, kind, "straight"] = actor.call.remote(kind)
    for (who, kind, way), call in calls.items():
        with pytest.raises(ray.exceptions.RayError) as caught:
            ray.get(call)
        told = plain_error(caught.value)
        if kind == "own":
            assert type(told) is ConfigError and str(told) == "model: can't be loaded\n  (a second line)"
        elif kind == "exit":
            assert "died without an exception" in str(told) and "\n" not in str(told), (who, way)
        else:
            # A class is named as the traceback does it: with its module, unless that can't be found again.
            names = [SAID[kind].format(who=who, module=module) for module in ("", f"{__name__}.")]
            assert type(told) is AbortError and str(told) in names, (who, way)


def test_a_process_without_memory_is_told():
    error = ray.exceptions.OutOfMemoryError(
        "Task was killed due to the node running low on memory.\nMemory: 31 / 32 GB"
    )
    assert "its node has no memory left (Task was killed due to the node running low on memory.)" in str(
        plain_error(error)
    )


class Pass:
    """In place of an actor of predict."""

    def __init__(self, config):
        pass

    def __call__(self, table):
        return table


def test_predict_tells_what_its_actors_die_of(local_ray, monkeypatch):
    class Fails(Pass):
        def __call__(self, table):
            fail("lines")

    monkeypatch.setattr(predict, "DecodeClips", Pass)
    monkeypatch.setattr(predict, "AnswerQuestions", Fails)
    with pytest.raises(AbortError) as caught:
        list(predict.stream(PredictConfig(), [VideoTask("a", "a.mp4", 4.0, ())]))
    assert str(caught.value) == SAID["lines"].format(who="AnswerActor")


def test_sft_tells_what_its_workers_die_of(local_ray, monkeypatch, tmp_path):
    def work(payload):
        with crossing():
            fail("halves")

    monkeypatch.setattr(sft_run, "work", work)
    data = {"annotations": "a.json", "videos": "videos"}
    config = SftRunConfig(data=data, output=str(tmp_path), num_cpus=0.5)
    with pytest.raises(AbortError) as caught:
        sft_run._fit(config, [], None, None)
    assert str(caught.value) == "Halves: one and two"
