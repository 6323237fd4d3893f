"""Damaged files of every kind: each ends in pictures or in one plain error, and leaves nothing behind."""

import io
import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ravst_ray.annotate.filter import filter_videos
from ravst_ray.config.annotate import DecodeConfig, FilterConfig
from ravst_ray.core.answers import parse
from ravst_ray.datasets.tasks import read_tasks
from ravst_ray.datasets.unav import read_unav
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.media.decoding import ChildDecoder
from tests import proc
from tests.fuzzing import CONTAINERS, damage, damage_json, write_containers

FILES = 120
TEXTS = 1500
DEADLINE_S = 10.0
TIMES_S = [0.0, 0.3, 0.6, 0.9, 1.1]
KNOWN = {
    "not_a_video", "truncated", "undecodable", "no_frames", "no_video_stream", "empty_file", "odd_times",
    "too_many_pixels", "too_large_to_decode", "decode_deadline", "decoder_crashed",
}  # fmt: skip


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> dict[str, bytes]:
    return write_containers(tmp_path_factory.mktemp("valid"))


def memory_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def children() -> set[int]:
    return {pid for pid in proc.pids() if proc.ancestor(pid) == os.getpid()}


def outcome(decoder: ChildDecoder, path: str) -> str:
    try:
        found = decoder.decode(path, TIMES_S)
    except StepError as error:
        assert error.reason in KNOWN and Path(path).name in error.message, error
        return error.reason
    assert set(found.frames.times_s) <= set(TIMES_S) and len(found.frames.jpegs) == len(found.frames.times_s)
    for jpeg in found.frames.jpegs:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
            assert picture.size == (found.frames.width, found.frames.height)
    try:
        outline = decoder.waveform(path, 40, 1.2)
    except StepError as error:
        assert error.reason in KNOWN, error
    else:
        assert outline is None or (outline.shape == (40, 2) and -1 <= outline.min() <= outline.max() <= 1)
    try:
        sound = decoder.samples(path, 1.2)
    except StepError as error:
        assert error.reason in KNOWN, error
    else:
        assert sound is None or (sound.shape == (19200,) and np.isfinite(sound).all())
    return "pictures"


@pytest.mark.slow
@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_videos(container, valid, tmp_path):
    path = tmp_path / f"damaged.{CONTAINERS[container][0]}"
    decoder = ChildDecoder(DecodeConfig(deadline_s=DEADLINE_S))
    path.write_bytes(valid[container])
    assert outcome(decoder, str(path)) == "pictures"
    decoder.close()
    files, processes, memory = len(os.listdir("/proc/self/fd")), children(), memory_mib()
    found: Counter[str] = Counter()
    for number in range(FILES):
        path.write_bytes(damage(valid[container], number))
        started = time.monotonic()
        found[outcome(decoder, str(path))] += 1
        assert time.monotonic() - started < 4 * DEADLINE_S, f"number {number} took too long"
    path.write_bytes(valid[container])
    assert outcome(decoder, str(path)) == "pictures", "what came before does no harm"
    decoder.close()
    assert found["pictures"] > FILES / 5 and found["decoder_crashed"] == 0 and len(found) >= 3, found
    assert (len(os.listdir("/proc/self/fd")), children()) == (files, processes), "nothing is left open, nobody alive"
    assert memory_mib() - memory < 60


LABELS = {
    "database": {
        f"v{number}": {
            "subset": "train",
            "duration": 12.5,
            "annotations": [
                {"segment": [1.0, 4.5], "label": "dog barking", "label_id": 3, "caption": "a dog barks at a cat"},
                {"segment": [5, 9], "label": "rain", "objects": [{"name": "dog", "audible": True}]},
            ],
        }
        for number in range(3)
    }
}


@pytest.mark.slow
def test_damaged_labels(tmp_path):
    text, path = json.dumps(LABELS), tmp_path / "labels.json"
    kept = refused = 0
    for number in range(TEXTS):
        path.write_bytes(damage_json(text, number))
        try:
            read = read_unav(path, tmp_path)
        except ConfigError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        for video in read.videos:
            assert Path(video.path).parent == tmp_path and 0 < video.duration_s < 1e7
            for event in video.events:
                assert 0 <= event.start_s < event.end_s and event.label
                assert all(one.name.isprintable() for one in event.given_objects or ())
                (event.label + (event.caption or "")).encode()
        for row in read.rejected:
            assert re.fullmatch("[a-z_]+", row.reason) and row.message
            (row.video_id + row.message).encode()
        filter_videos(read.videos, FilterConfig(), 0)
        kept += len(read.videos)
    assert kept > TEXTS / 5 and refused > TEXTS / 10


QUESTIONS = [
    {
        "video_name": f"v{number}",
        "duration": 12.5,
        "annotation": [
            {
                "event_num": 1,
                "label": "dog barking",
                "AV Temporal Reasoning": [
                    {"Q": "When does the dog bark?", "A": "<answer><when>[1.0, 4.5]</when></answer>"}
                ],
                "AV Spatial Reasoning": [{"Q": "Where?", "A": "<answer><object>dog</object></answer>"}],
            }
        ],
    }
    for number in range(3)
]


@pytest.mark.slow
def test_damaged_questions(tmp_path):
    text, path = json.dumps(QUESTIONS), tmp_path / "questions.json"
    kept = refused = 0
    for number in range(TEXTS):
        path.write_bytes(damage_json(text, number))
        try:
            tasks = read_tasks(path, tmp_path)
        except ConfigError as error:
            assert str(path) in str(error) or str(tmp_path) in str(error)
            refused += 1
            continue
        for task in tasks:
            assert Path(task.path).parent == tmp_path
            for pair in task.questions:
                parse(pair.answer)
                json.dumps([pair.qa_id, pair.question, pair.answer], ensure_ascii=False).encode()
        kept += len(tasks)
    assert kept > TEXTS / 5 and refused > TEXTS / 10
