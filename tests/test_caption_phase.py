"""The captions phase: what it reads, what it starts, and that it is over before the first frame is decoded."""

import io
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from ravst_ray.annotate import pipeline
from ravst_ray.annotate.caption_frames import CaptionFrames
from ravst_ray.annotate.pipeline import build_steps, read_captions, rooms, stream, wait_for_end
from ravst_ray.annotate.run import annotate
from ravst_ray.annotate.texts import known_item, lacks_caption, needs_model
from ravst_ray.annotate.workers import Letting
from ravst_ray.config.annotate import DecodeConfig, LLMConfig
from ravst_ray.core.frame_times import spread_indices
from ravst_ray.core.prompts import NO_SOURCE
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import ConfigError
from ravst_ray.language.local import SupervisedServer
from ravst_ray.media.protocols import DecodedVideo
from ravst_ray.records import Event, Frames, SceneObject, Video, VideoItem, VideoMeta
from tests.fake_endpoint import FakeEndpoint, completion, error, objects
from tests.stub_run import run_without_ray, write_labels
from tests.stub_run import stub_config as run_config
from tests.test_local_llm import FAMILY, is_gone, script
from tests.test_pipeline import STUBS, StubCaptions, StubDecode, StubGround, stub_config, videos

DOG = SceneObject("dog", True)


def event(number=1, label="dog barking", **more):
    return Event(number, 1.0, 4.0, label, **more)


def given(name):
    return Video(name, f"/nowhere/{name}.mp4", 10.0, (event(given_objects=(DOG,)),))


# --- what is known without a model ---


@pytest.mark.parametrize(
    ("one", "needs", "needs_with_captioner"),
    [
        (event(), True, True),
        (event(caption="a dog barks"), True, True),
        (event(given_objects=(DOG,)), False, False),
        (event(caption=" "), True, True),
        (event(label=" "), False, True),
        (event(label=" ", asked=False), False, False),
        (event(caption=f"A bed. {NO_SOURCE.capitalize()}."), False, False),
    ],
)
def test_which_events_need_a_model(one, needs, needs_with_captioner):
    assert (needs_model(one, False), needs_model(one, True)) == (needs, needs_with_captioner)


def test_a_video_that_is_known_is_read_without_a_model():
    one = replace(given("v"), events=(event(given_objects=(DOG,)), event(2, label="")))
    item = known_item(one, write_captions=False)
    assert [found.objects for found in item.annotations] == [(replace(DOG, heard_in=(1,)),), ()]
    assert [found.reasons for found in item.annotations] == [(), ("no_text",)]
    assert item.provenance == {"llm": "none: objects given"}
    assert known_item(replace(one, events=(*one.events, event(3))), write_captions=False) is None


def test_only_events_that_are_asked_about_lack_a_caption():
    ones = [event(), event(caption=" "), event(caption="x"), event(asked=False), event(given_objects=(DOG,))]
    assert [lacks_caption(one) for one in ones] == [True, True, False, False, False]


# --- frames for captions ---


class Recorder:
    """A decoder without a file; frames end at 9 s."""

    def __init__(self):
        self.asked = []

    def decode(self, path, times_s):
        self.asked.append(tuple(times_s))
        there = tuple(time_s for time_s in times_s if time_s <= 9.0)
        meta = VideoMeta(9.0, 25.0, 8, 8, False, "none")
        return DecodedVideo(meta, Frames(there, 8, 8, (b"jpeg",) * len(there)), None)


def test_a_few_frames_of_events_without_a_caption(tmp_path):
    (tmp_path / "v.mp4").touch()
    events = (Event(1, 0.4, 7.0, "x"), Event(2, 0.0, 9.0, "x", caption="known"), Event(3, 20.0, 30.0, "x"))
    video = Video("v", str(tmp_path / "v.mp4"), 30.0, events)
    decoder = Recorder()
    step = CaptionFrames(DecodeConfig(), 3, decoder)
    (done,) = step([VideoItem(video)])
    assert decoder.asked == [(0.4, 3.4, 6.4, 20.0, 25.0, 30.0)]
    assert done.frames.times_s == (0.4, 3.4, 6.4) and done.stats["caption_frames"] == 3
    (known,) = step([VideoItem(replace(video, events=events[1:2]))])
    assert known.frames is None and len(decoder.asked) == 1


def test_spread_indices_reach_from_the_first_to_the_last():
    assert [spread_indices(7, wanted) for wanted in (1, 2, 3, 9)] == [(0,), (0, 6), (0, 3, 6), tuple(range(7))]
    assert spread_indices(0, 4) == ()


# --- the phase, on Ray ---


def test_the_language_model_is_gone_before_the_first_frame_is_decoded(tmp_path, local_ray):
    """The actor, its server, and the server's child, which heeds no SIGTERM."""
    command = [sys.executable, str(script(tmp_path, FAMILY)), str(tmp_path), "stubborn"]

    class Serving(StubCaptions):
        def __init__(self):
            self.server = SupervisedServer(command, tmp_path / "log", dict(os.environ), grace_s=12.0)
            (tmp_path / "actor").write_text(str(os.getpid()))

        def process(self, item):
            until = time.monotonic() + 60.0
            while not all((tmp_path / role).exists() for role in ("parent", "child")) and time.monotonic() < until:
                time.sleep(0.05)
            return super().process(item)

        def close(self):
            self.server.stop()

    class Looking(StubDecode):
        def process(self, item):
            pids = [int((tmp_path / role).read_text()) for role in ("actor", "parent", "child")]
            with (tmp_path / "seen").open("a") as file:
                file.write("".join("gone " if is_gone(pid) else "alive " for pid in pids))
            return super().process(item)

    DatasetStore(str(tmp_path / "out")).prepare()
    steps = {**STUBS, "captions": lambda: Letting(Serving()), "decode": Looking}  # as the real one is built
    rows = list(stream(stub_config(tmp_path / "out"), videos("a", "b"), steps))
    assert {row["video_id"]: row["reason"] for row in rows} == {"a": None, "b": None}
    assert (tmp_path / "seen").read_text().split() == ["gone"] * 6


def test_a_process_that_does_not_end_is_waited_for_so_long(local_ray, caplog):
    import ray

    here = ray.get_runtime_context().get_node_id()
    began = time.monotonic()
    wait_for_end([(here, os.getpid())], within_s=1.0)
    assert time.monotonic() - began >= 1.0
    assert f"process {os.getpid()} of the captions phase did not end within 1 s" in caplog.text
    wait_for_end([("0" * 56, os.getpid())], within_s=60.0)  # a node that is lost


def test_objects_that_are_given_start_no_language_model(tmp_path, local_ray):
    def never():
        raise ConfigError("the captions step was built")

    DatasetStore(str(tmp_path)).prepare()
    told = []
    steps = {**STUBS, "captions": never}
    rows = list(stream(stub_config(tmp_path), [given("a"), given("b")], steps, lambda *count: told.append(count)))
    assert {row["video_id"]: row["reason"] for row in rows} == {"a": None, "b": None} and told == []
    with pytest.raises(ConfigError, match="the captions step was built"):
        list(stream(stub_config(tmp_path), [given("c"), *videos("d")], steps))


def test_all_texts_are_read_first_and_the_first_grounding_waits_for_no_other_video(tmp_path, local_ray):
    def noting(stage, base, pause_s):
        class Noting(base):
            def process(self, item):
                time.sleep(pause_s)
                with (tmp_path / "order").open("a") as file:
                    file.write(f"{stage}\n")
                return super().process(item)

        return Noting

    DatasetStore(str(tmp_path / "out")).prepare()
    steps = {
        "captions": noting("captions", StubCaptions, 0.0),
        "decode": noting("decode", StubDecode, 0.3),
        "ground": noting("ground", StubGround, 0.0),
    }
    told = []
    names = [f"v{number:02d}" for number in range(20)]
    rows = list(stream(stub_config(tmp_path / "out"), videos(*names), steps, lambda *count: told.append(count)))
    assert len(rows) == 20 and told[0] == (0, 20) and told[-1] == (20, 20)
    order = (tmp_path / "order").read_text().split()
    assert order[:20] == ["captions"] * 20
    assert order[20:].index("ground") < 19, "before the last of the 20 is decoded"


def test_a_captioner_sees_frames_and_the_vision_graph_does_not_get_them(big_buck_bunny, tmp_path, local_ray, caplog):
    """A video that can't be decoded has its error from then on. What the endpoint doesn't take is told once."""

    def respond(request, _):
        if "seed" in request:
            return error(400, "Unrecognized request argument supplied: seed")
        asked = request["messages"][-1]["content"]
        return completion("A rabbit yawns by a tree.") if isinstance(asked, list) else objects(rabbit=True, tree=False)

    label = "rabbit yawning"
    captioned = Event(2, 1.0, 3.0, label, caption="a tree")
    bunny = Video("bunny", str(big_buck_bunny), 5.28, (Event(1, 0.5, 4.5, label), captioned))
    lost = replace(bunny, video_id="lost", path=str(tmp_path / "lost.mp4"))
    with FakeEndpoint(respond) as endpoint:
        llm = LLMConfig(backend="openai", base_url=endpoint.base_url, write_captions=True, caption_frames=2)
        config = stub_config(tmp_path).model_copy(update={"llm": llm})
        attempts = pipeline._start_attempts()
        asked = [bunny, given("given"), lost]
        done = read_captions(config, asked, build_steps(config), attempts)
    assert [item.video.video_id for item in done] == ["bunny", "given", "lost"]
    assert [item.frames for item in done] == [None] * 3
    first, second = done[0].annotations
    assert first.event.caption == "A rabbit yawns by a tree."
    assert [(thing.name, thing.audible) for thing in first.objects] == [("rabbit", True), ("tree", False)]
    assert second.event.caption == "a tree" and done[0].stats["caption_frames"] == 2
    assert (done[2].error.stage, done[2].error.reason) == ("decode", "missing_file")
    shown = next(asked for asked in endpoint.captions() if isinstance(asked, list))
    told = "the language model's endpoint doesn't take all that was sent: no seed is sent"
    assert [record.message for record in caplog.records if record.name == pipeline.__name__] == [told]
    images = [part["image_url"]["url"] for part in shown[1:]]
    assert len(images) == 2 and images[0] != images[1]
    assert all(url.startswith("data:image/jpeg;base64,") for url in images)


def test_a_captioner_is_shown_whole_pictures(big_buck_bunny):
    step = CaptionFrames(DecodeConfig(max_side_px=320), 2)
    (done,) = step([VideoItem(Video("v", str(big_buck_bunny), 5.28, (Event(1, 0.5, 4.5, "x"),)))])
    step.close()
    assert done.frames.times_s == (0.5, 4.5) and done.loudness is None
    assert [Image.open(io.BytesIO(jpeg)).size for jpeg in done.frames.jpegs] == [(320, 180)] * 2


def test_room_is_needed_for_one_phase_at_a_time(tmp_path):
    config = stub_config(tmp_path, llm={"num_gpus": 1.0}, ground={"num_gpus": 1.0})
    assert [list(pools) for pools in rooms(config, videos("a"))] == [["llm"], ["decode", "ground"]]
    assert [list(pools) for pools in rooms(config, [given("a")])] == [["decode", "ground"]]
    seeing = config.model_copy(update={"llm": LLMConfig(write_captions=True)})
    assert [list(pools) for pools in rooms(seeing, videos("a"))] == [["decode", "llm"], ["decode", "ground"]]


# --- what the user hears ---


@pytest.mark.parametrize(
    ("names", "more", "warned"),
    [
        (("good1", "good2"), (), True),
        (("good1", "good2"), ("llm.write_captions=true",), False),
        (("good1", "said1"), (), False),  # half of them
        (("good1", "good2", "said1"), (), True),
    ],
)
def test_labels_alone_are_warned_of(tmp_path, monkeypatch, caplog, names, more, warned):
    monkeypatch.chdir(Path(__file__).parents[1])
    run_without_ray(monkeypatch, tmp_path / "healed")
    labels = json.loads(write_labels(tmp_path / "labels.json", *names).read_text())
    for name, entry in labels["database"].items():
        one = dict(entry["annotations"][0])
        labels["database"][name] = {**entry, "annotations": [one | {"caption": "a dog"} if "said" in name else one]}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    said = io.StringIO()
    summary = annotate(run_config(tmp_path, *more), Console(file=said, width=1000))
    lacking = sum("good" in name for name in names)
    assert summary["events_without_caption"] == lacking
    warning = f"{lacking} of {len(names)} events have no caption: the language model reads their labels alone"
    assert (warning in said.getvalue()) == warned and (warning in caplog.text) == warned
    assert ("jobs/configs/annotate_captioner.yaml" in said.getvalue()) == warned


def test_captions_in_another_script_are_warned_of_once(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(Path(__file__).parents[1])
    run_without_ray(monkeypatch, tmp_path / "healed")
    labels = json.loads(write_labels(tmp_path / "labels.json", "good1", "good2", "good3").read_text())
    for name, caption in (("good1", "一只狗在叫"), ("good2", "犬が dog を見る。鳥"), ("good3", "a dog, señor 犬")):
        entry = labels["database"][name]
        labels["database"][name] = {**entry, "annotations": [entry["annotations"][0] | {"caption": caption}]}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    said = io.StringIO()
    annotate(run_config(tmp_path), Console(file=said, width=1000))
    warning = "2 of 3 events are described in another script than the Latin one"
    assert said.getvalue().count(warning) == 1 and caplog.text.count(warning) == 1


def test_the_phase_is_shown_on_the_console_and_in_the_status(tmp_path, monkeypatch):
    from ravst_ray.annotate.status import read_status

    monkeypatch.chdir(Path(__file__).parents[1])
    seen = []

    def telling(config, todo, tell):
        for done in (0, 1, 2):
            tell(done, 2)
            seen.append(read_status(config.output))
        yield from ()

    run_without_ray(monkeypatch, tmp_path / "healed")
    real = pipeline.stream

    def both(config, todo, tell):
        yield from telling(config, todo, tell)
        yield from real(config, todo, tell=tell)

    monkeypatch.setattr(pipeline, "stream", both)
    monkeypatch.setattr("ravst_ray.annotate.status.WRITE_EVERY_S", 0.0)
    write_labels(tmp_path / "labels.json", "good1", "good2")
    said = io.StringIO()
    annotate(run_config(tmp_path), Console(file=said, width=1000))
    assert [status.doing for status in seen] == [
        "reading captions: 0 of 2 videos", "reading captions: 1 of 2 videos", "",
    ]  # fmt: skip
    assert "now       reading captions: 0 of 2 videos" in seen[0].to_text() and seen[0].state == "running"
    lines = said.getvalue().splitlines()
    assert lines.index("reading captions: 0/2 videos") < lines.index("reading captions: 2/2 videos")
    assert read_status(str(tmp_path / "out")).doing == ""
