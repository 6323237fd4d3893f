"""For runs on real clusters: videos of three seconds, a language model that reads their captions, and the command."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ravst_ray.toyworld.audio import soundtrack
from ravst_ray.toyworld.scene import NAMES, random_scene
from ravst_ray.toyworld.world import scene_labels, scene_truth, write_video
from tests.fake_endpoint import FakeEndpoint, error, objects

LENGTH_S = 3.0
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""For the environment of nodes and drivers: 127.0.0.1 means itself. Ray on Linux else takes it for another address of
the machine, one that others reach."""


def write_short_world(root: Path, count: int) -> int:
    """``root/videos`` and ``root/labels.json`` with so many videos; gives the number of events."""
    (root / "videos").mkdir(parents=True)
    database = {}
    for index in range(count):
        name, rng = f"short_{index}", np.random.default_rng([5, index])
        scene = random_scene(rng, duration_s=LENGTH_S)
        boxes_T = write_video(root / "videos" / f"{name}.mp4", scene, soundtrack(scene, rng))
        database[name] = scene_labels(scene, scene_truth(scene, boxes_T), rng)
    (root / "labels.json").write_text(json.dumps({"database": database}))
    return sum(len(entry["annotations"]) for entry in database.values())


def read_caption(request, number):
    """The stub of a language model: every name of the toy world that the text holds, the first one sounds."""
    text = request["messages"][-1]["content"]
    found = sorted((name for name in NAMES if name in text), key=text.index)
    return objects(**{name.replace(" ", "_"): place == 0 for place, name in enumerate(found)})


class Endpoint:
    """A language model over HTTP that can be slow, be away, or keep its last answers back."""

    WAIT_S = 400.0

    def __init__(self):
        self.away = False
        self.delay_s = 0.0
        self.answers = 10**9
        """How many requests are answered before ``go_on``."""
        self.go_on = threading.Event()

    def __call__(self, request, number):
        time.sleep(self.delay_s)
        if number >= self.answers:
            self.go_on.wait(self.WAIT_S)
        return error(503, "away") if self.away else read_caption(request, number)


@contextmanager
def answering() -> Iterator[tuple[FakeEndpoint, Endpoint]]:
    """A language model, and how it behaves."""
    behaviour = Endpoint()
    with FakeEndpoint(behaviour) as server:
        yield server, behaviour
        behaviour.go_on.set()


def job(endpoint, annotations, videos, output, *more):
    """The README's command, with what makes it fit a machine without cards."""
    toys = "ravst_ray/toyworld/checkpoints"
    settings = {
        "input.annotations": annotations,
        "input.videos": videos,
        "output": output,
        "filter.max_events": 9,
        "llm.base_url": endpoint.base_url,
        "llm.concurrency": 1,
        "llm.max_retries": 1,
        "llm.timeout_s": 500,
        "grounding.detector": f"{toys}/grounding-dino-tiny-toy",
        "grounding.segmenter": f"{toys}/sam2-tiny-toy",
        "grounding.device": "cpu",
        "grounding.detect_every": 1,
        "actors.decode": "{min: 1, max: 1, num_cpus: 0.25}",
        "actors.llm": "{min: 1, max: 1, num_cpus: 0.25}",
        "actors.ground": "{min: 1, max: 1, num_cpus: 1}",
        "report_videos": 0,
    }
    places = [f"{key}={value}" for key, value in settings.items()]
    return ["python", "jobs/annotate.py", "--config", "jobs/configs/annotate_cluster.yaml", *places, *more]
