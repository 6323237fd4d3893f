"""A whole annotation run with stubbed models: real input, store, lock and report, made-up frames and tracks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ravst_ray.annotate.pipeline import Finish, Tell, finishing_steps
from ravst_ray.annotate.workers import table_of
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.base import load_config
from ravst_ray.errors import StepError
from ravst_ray.records import Video, VideoItem
from tests.test_pipeline import LAPTOP, STUBS, StubDecode


class Healing(StubDecode):
    """Videos named ``ill…`` or ``cut…`` fail until a file exists: with a reason of their own, that may pass or not."""

    def __init__(self, healed: Path):
        self.healed = healed

    def process(self, item):
        name = item.video.video_id
        if name.startswith(("ill", "cut")) and not self.healed.exists():
            reason, retryable = ("decode_deadline", True) if name.startswith("ill") else ("truncated", False)
            raise StepError(reason, f"{name} is ill", retryable)
        return replace(super().process(item), provenance={"healed": str(self.healed.exists())})


def stub_steps(healed: Path) -> dict:
    """What builds the stubbed steps."""
    return {**STUBS, "decode": partial(Healing, healed)}


def stream_without_ray(
    builds: dict, config: AnnotateConfig, videos: Sequence[Video], tell: Tell | None = None
) -> Iterator[dict]:
    """What ``pipeline.stream`` yields: the same steps and commits, one video after the other in this process."""
    steps = [build() for build in builds.values()]
    finish = Finish(config, finishing_steps(config))
    for video in videos:
        items = [VideoItem(video)]
        for step in steps:
            items = step(items)
        yield from finish(table_of(items)).to_pylist()


def run_without_ray(monkeypatch, healed: Path) -> None:
    """Runs take the same steps and commits in this process: a second, not a minute."""
    monkeypatch.setattr("ravst_ray.annotate.pipeline.stream", partial(stream_without_ray, stub_steps(healed)))
    monkeypatch.setattr("ravst_ray.cluster.start.start_ray", lambda wait_s: None)


def write_labels(path: Path, *names: str) -> Path:
    """Labels of videos of 10 s with one event."""
    label = {"segment": [1.0, 4.0], "label": "dog barking"}
    entry = {"duration": 10.0, "annotations": [label]}
    path.write_text(json.dumps({"database": dict.fromkeys(names, entry)}))
    return path


def stub_config(root: Path, *more: str, output: str | None = None) -> AnnotateConfig:
    """Of a run on ``root/labels.json`` into ``root/out``."""
    videos = root / "videos"
    videos.mkdir(exist_ok=True)
    places = [f"input.annotations={root}/labels.json", f"input.videos={videos}", f"output={output or root / 'out'}"]
    pools = [f"actors.{name}.num_cpus=0.5" for name in ("decode", "llm", "ground")]
    return load_config(AnnotateConfig, LAPTOP, [*places, *pools, "report_videos=0", *more])
