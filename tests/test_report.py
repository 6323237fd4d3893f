"""The annotation report: its counters, its figures, its page and the boxes drawn on frames."""

from __future__ import annotations

import base64
import io
import math
import os
import shutil
import signal
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageColor

from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.records import Event, EventAnnotation, QAPair, SceneObject, Track
from ravst_ray.reports import figures, samples
from ravst_ray.reports.annotation_report import (
    ReportEvent,
    SampleVideo,
    accuracy_tables,
    render_annotation_report,
    write_annotation_report,
)
from ravst_ray.reports.overlay import TrackBox, draw_frame, text_color, track_colors, tracks_at
from ravst_ray.reports.page import duration
from ravst_ray.reports.samples import pick_times, visible_spans
from ravst_ray.reports.statistics import count_events

EVENTS = (
    ReportEvent("a", 20.0, 1, "dog barking", 1.0, 4.0, ("Dog", "tree"), (True, False), "accepted", ()),
    ReportEvent("a", 20.0, 2, "man speaking", 6.0, 9.5, ("man",), (True,), "suspect", ("low_score",)),
    ReportEvent("b", 20.1, 1, "dog barking", 0.0, 20.1, ("dog ", "dog", "tree"), (True, True, False), "accepted", ()),
    ReportEvent("c", 59.9, 1, "rapping", 2.0, 3.0, (), (), "rejected", ("no_box", "low_score")),
)

SUMMARY = {
    "videos": {"input": 9, "kept": 6, "done": 3, "failed": 3},
    "drops": {"too_long": 2, "too_many_events": 1},
    "errors": {"file_not_found": 2, "no_video_stream": 1},
    "events": 4,
    "objects": 1234567,
    "share_audible": 0.625,
    "hours_of_video": 12.34,
    "frames": 4321,
    "frames_per_s": 87.65,
    "seconds_per_stage": {"decode": 12.5, "grounding": 75.0},
    "wall_s": 3725.0,
    "tokens": {"prompt": 1000, "completion": 234, "requests": 17, "cache_hits": 5},
    "usd": 0.07,
    "questions": {"AVTR": 5, "AVSR": 7, "AVSTR": 11},
    "status": {"accepted": 2, "suspect": 1, "rejected": 1},
    "split": {
        "train": {"videos": 2, "AVTR": 4, "AVSR": 6, "AVSTR": 8},
        "test": {"videos": 1, "AVTR": 1, "AVSR": 1, "AVSTR": 3},
    },
    "quality_reasons": {"low_score": 2, "no_box": 1},
    "questions_left_out": {"repeated": 4, "crowd": 2},
}


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, the text, and exact values by preceding text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.values: list[tuple[str, float]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "data":
            self.values.append((self.texts[-1], float(dict(attrs)["value"])))

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())

    @property
    def images(self) -> list[str]:
        return [attributes["src"] for tag, attributes in self.elements if tag == "img"]

    def value(self, label: str) -> float:
        found = [value for text, value in self.values if text == label]
        assert found, f"no value after {label!r}"
        return found[0]


def write_video(path: Path, seconds: float = 4.0, sound: bool = True, size: tuple[int, int] = (160, 120)) -> Path:
    """A video that is red in its first half and blue after it; its sound is a tone in the first half only."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        frames = round(seconds * 10)
        for index in range(frames):
            picture = np.zeros((size[1], size[0], 3), np.uint8)
            picture[..., 0 if index < frames / 2 else 2] = 220
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if audio is not None:
            times = np.arange(round(seconds * 16000)) / 16000
            wave = (0.5 * np.sin(2 * np.pi * 440 * times) * (times < seconds / 2)).astype(np.float32)
            for start in range(0, len(wave) - 1023, 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def sample(path: Path, video_id: str = "clip", size: tuple[int, int] = (160, 120)) -> SampleVideo:
    """One event over the seconds 0 to 3 with an audible and a silent object, and one question."""
    times = (0.0, 1.0, 2.0, 3.0)
    drum = Track(1, "red drum", True, times, ((20.0, 30.0, 80.0, 90.0),) * 4, (0.9,) * 4)
    bell = Track(2, "blue bell", False, (1.0, 2.0), ((90.0, 40.0, 150.0, 100.0),) * 2, (0.8,) * 2)
    objects = (SceneObject("red drum", True), SceneObject("blue bell", False), SceneObject("ghost", False))
    annotation = EventAnnotation(Event(1, 0.0, 3.0, "drum beating"), objects, times, (drum, bell), "suspect", ("jump",))
    answer = "<answer>\n<object>red drum</object>\n<when>[0.0, 3.0]</when>\n</answer>"
    pair = QAPair(f"{video_id}/1/AVTR/0", video_id, 1, "AVTR", "When is the moment?", answer)
    return SampleVideo(video_id, str(path), 4.0, *size, (annotation,), (pair,))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4")


@pytest.fixture(scope="module")
def clip_html(clip) -> str:
    return render_annotation_report(SUMMARY, EVENTS, [sample(clip)])


def test_counters_add_up():
    got = count_events(iter(EVENTS))
    assert (got.videos, got.events, got.audible, got.silent) == (3, 4, 4, 2)
    assert got.share_audible == pytest.approx(4 / 6)
    assert got.video_s == pytest.approx(20.0 + 20.1 + 59.9)
    assert got.duration_groups == {"short": 1, "medium": 1, "long": 1}
    assert got.events_per_video == {2: 1, 1: 2}
    assert got.objects_per_event == {2: 1, 1: 1, 3: 1, 0: 1}
    assert got.names == {"dog": 3, "tree": 2, "man": 1}, "names are counted without case and outer spaces"
    assert got.audible_names == {"dog": 3, "man": 1}
    assert got.labels == {"dog barking": 2, "man speaking": 1, "rapping": 1}
    assert got.status == {"accepted": 2, "suspect": 1, "rejected": 1}
    assert got.reasons == {"low_score": 2, "no_box": 1}
    assert got.event_seconds == {2: 1, 3: 1, 20: 1, 0: 1}, "a length of 3 s closes the bin from 2 to 3 s"


@pytest.mark.parametrize(
    ("span", "most", "step"), [(60, 12, 5), (61, 12, 10), (19.5, 12, 2), (0.9, 12, 0.1), (7, 8, 1), (0, 8, 1)]
)
def test_steps_are_round(span, most, step):
    assert figures.nice_step(span, most) == pytest.approx(step)


def test_histogram_loses_nothing_and_has_even_bins():
    seconds = {0: 1, 4: 2, 5: 3, 59: 4}
    got = figures.histogram(seconds)
    assert got.edges == tuple(range(0, 61, 5))
    assert [column.value for column in got.columns] == [3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]
    assert [column.share for column in got.columns][:2] == [0.75, 0.75]
    assert figures.histogram({}) == figures.Histogram((), ())


def test_small_counts_fill_gaps_and_end_with_the_rest():
    assert [(bar.label, bar.value) for bar in figures.counts({1: 5, 3: 2})] == [("1", 5), ("2", 0), ("3", 2)]
    assert [(bar.label, bar.value) for bar in figures.counts({7: 1, 8: 2, 30: 4})] == [("7", 1), ("8+", 6)]
    assert [(bar.label, bar.value) for bar in figures.counts({12: 3})] == [("8+", 3)]


def test_ranked_is_by_value_then_name_with_shares_of_all():
    got = figures.ranked({"b": 2, "a": 2, "c": 6}, top=2)
    assert [(bar.label, bar.value, bar.share, bar.of_total) for bar in got] == [
        ("c", 6, 1.0, 0.6),
        ("a", 2, 1 / 3, 0.2),
    ]


def test_words_are_sized_by_the_root_of_their_count():
    got = figures.word_cloud({"zebra": 16, "ant": 4, "bee": 1}, {"zebra": 4, "ant": 4}, top=2)
    assert got == [figures.Word("ant", 4, 0.5, 1.0), figures.Word("zebra", 16, 1.0, 0.25)]


def test_waveform_path_encloses_the_samples():
    assert figures.waveform_path([(-0.5, 0.25), (-0.1, 0.4)]) == "M0 -0.500L1 -0.800L1 0.200L0 1.000Z"
    assert figures.waveform_path([(0.0, 0.0)]) == "M0 -0.015L0 0.015Z", "silence is a thin line"
    assert figures.waveform_path([]) == ""


def test_ticks_end_within_the_video():
    assert figures.ticks(19.5) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert figures.ticks(60.0)[-1] == 60.0


def test_duration_for_people():
    shown = [duration(8.24), duration(185), duration(3725.0), duration(59.99)]
    assert shown == ["8.2 s", "3 min 05 s", "1 h 02 min", "60.0 s"]


def test_visible_spans_join_neighbours_and_end_with_the_event():
    track = Track(1, "x", True, (1.4, 2.4, 5.4), ((0.0, 0.0, 1.0, 1.0),) * 3, (1.0,) * 3)
    got = visible_spans(track, 1.0, 6.0)
    assert got == [(1.4, pytest.approx(3.4)), (5.4, 6.0)]


def test_frames_are_spread_over_all_events():
    def event(number: int, start: int, count: int) -> EventAnnotation:
        times = tuple(float(start + index) for index in range(count))
        return EventAnnotation(Event(number, start, start + count, "x"), (), times)

    video = SampleVideo("v", "", 60.0, 16, 9, (event(1, 0, 30), event(2, 40, 2), event(3, 50, 1)))
    assert pick_times(video, 6) == [(0.0, 1), (29.0, 1), (40.0, 2), (41.0, 2), (50.0, 3)]
    assert pick_times(replace(video, annotations=()), 2) == [(15.0, None), (45.0, None)]
    many = replace(video, annotations=tuple(event(number, 10 * number, 3) for number in range(1, 10)))
    assert [number for _, number in pick_times(many, 3)] == [1, 5, 9]


def test_page_shows_the_numbers_it_was_given():
    page = Page(render_annotation_report(SUMMARY, iter(EVENTS), []))
    for label, value in {
        "Videos annotated": 3,
        "Events": 4,
        "Objects": 1234567,
        "Audible objects": 0.625,
        "Hours of video": 12.34,
        "Questions": 23,
        "Events accepted": 2,
        "Videos failed": 3,
        "Wall time": 3725,
        "Frames per second": 87.65,
        "Tokens": 1234,
        "Cost": 0.07,
        "decode": 12.5,
        "grounding": 75.0,
        "too_long": 2,
        "too_many_events": 1,
        "file_not_found": 2,
        "no_video_stream": 1,
        "low_score": 2,
        "repeated": 4,
        "crowd": 2,
        "dog barking": 2,
        "rapping": 1,
        "short · ≤ 20 s": 1,
        "train": 2,
        "test": 1,
    }.items():
        assert page.value(label) == value, label
    for shown in ("1,234,567", "62.5%", "1 h 02 min", "$0.07", "AVTR 5 · AVSR 7 · AVSTR 11", "4,321 frames in all"):
        assert shown in page.texts
    assert "6 of 9 kept by the filter" in page.texts
    assert "17 LLM requests, 5 more from the cache" in page.texts
    assert "Toy-world accuracy" not in page.texts


def test_counts_stand_in_for_missing_keys():
    page = Page(render_annotation_report({}, EVENTS, []))
    assert page.value("Videos annotated") == 3
    assert page.value("Objects") == 6
    assert page.value("Audible objects") == pytest.approx(4 / 6)
    assert page.value("Hours of video") == pytest.approx(100 / 3600)
    assert "Cost" not in page.texts and "Tokens" not in page.texts
    empty = {"Not measured.", "Not split.", "Nothing was left out.", "No video failed.", "Every question was asked."}
    assert empty <= set(page.texts)


def test_duration_groups_follow_the_configuration():
    page = Page(render_annotation_report({"duration_groups_s": [10.0, 20.0]}, EVENTS, []))
    found = [page.value(label) for label in ("short · ≤ 10 s", "medium · 10–20 s", "long · > 20 s")]
    assert found == [0, 1, 2]


def test_an_empty_run_still_gives_a_page():
    page = Page(render_annotation_report({}, [], []))
    assert "No event was annotated." in page.texts
    assert page.value("Events") == 0


def test_accuracies_are_held_against_their_targets():
    tables = {
        "With the true names": {"isolated objects": {"recall": {"value": 0.95, "target": 0.92}}, "other": 0.5},
        "The LLM": {"names found": {"value": 0.4, "target": 0.6}},
    }
    rows = accuracy_tables(tables)
    true_names = [(row.group, row.metric, row.value, row.target, row.passed) for row in rows["With the true names"]]
    assert true_names == [("isolated objects", "recall", 0.95, 0.92, True), ("", "other", 0.5, None, None)]
    assert rows["The LLM"][0].passed is False
    page = Page(render_annotation_report({"toy_accuracy": tables}, EVENTS, []))
    assert page.value("recall") == 0.95 and page.value("names found") == 0.4
    assert page.texts.count("✓ yes") == 1 and page.texts.count("✕ no") == 1


def test_sample_card_shows_frames_lanes_and_answers(clip_html):
    page = Page(clip_html)
    assert len(page.images) == 4, "one picture per sampled second"
    first = Image.open(io.BytesIO(base64.b64decode(page.images[0].split(",", 1)[1]))).convert("RGB")
    last = Image.open(io.BytesIO(base64.b64decode(page.images[-1].split(",", 1)[1]))).convert("RGB")
    assert first.size == (320, 240), "small videos are shown at twice their size"
    assert np.allclose(first.getpixel((300, 10)), (220, 0, 0), atol=12), "0 s: the red half"
    assert np.allclose(last.getpixel((300, 10)), (0, 0, 220), atol=12), "3 s: the blue half"
    alts = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert alts[0] == "Frame at 0.0 s: red drum (audible)"
    assert alts[1] == "Frame at 1.0 s: red drum (audible), blue bell (silent)"
    spans = [a for tag, a in page.elements if tag == "span" and (a.get("class") or "") in ("sounding", "still")]
    assert [(a["class"], a["title"]) for a in spans] == [
        ("sounding", "red drum: 0.0–3.0 s"),
        ("still", "blue bell: 1.0–3.0 s"),
    ]
    assert spans[1]["style"] == "left: 25.000%; width: 50.000%"
    assert "never seen" in page.texts, "an object without boxes is listed"
    assert {"? suspect", "jump", "1 question and answer", "When is the moment?", "clip/1/AVTR/0"} <= set(page.texts)
    assert any(text.startswith("<answer>\n<object>red drum</object>") for text in page.texts)


def test_waveform_is_drawn_over_the_sounding_half(clip_html):
    path = next(a["d"] for tag, a in Page(clip_html).elements if tag == "path" and a["d"].count("L") > 500)
    upper = [-float(point.split()[1]) for point in path.strip("MZ").split("L")[:480]]
    assert min(upper[20:220]) > 0.8, "the tone"
    assert max(upper[260:]) < 0.1, "silence"


def test_samples_that_can_not_be_shown_say_why_and_spoil_no_others(tmp_path, clip):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_bytes(b"no video at all" * 99)
    video = sample(clip, "late")
    late = replace(video.annotations[0], frame_times_s=(0.0, 3.0, 9.0))
    samples = [sample(tmp_path / f"{name}.mp4", name) for name in ("missing", "empty", "text")]
    samples += [replace(video, annotations=(late,)), sample(write_video(tmp_path / "mute.mp4", sound=False), "mute")]
    page = Page(render_annotation_report(SUMMARY, EVENTS, samples))
    assert page.texts.count("Not readable") == 3
    assert page.texts.count("not available") == 3, "no waveform either"
    assert page.texts.count("This video has no sound.") == 1
    assert {"missing", "empty", "text", "late", "mute", "missing/1/AVTR/0"} <= set(page.texts)
    alts = [attributes["alt"].split(":")[0] for tag, attributes in page.elements if tag == "img"]
    assert alts[:2] == ["Frame at 0.0 s", "Frame at 3.0 s"], "a time past the end is left out, the others stay in place"
    assert len(alts) == 2 + 4


@pytest.mark.faults
@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGSEGV])
def test_a_sound_track_that_ends_its_decoder_costs_the_waveform_alone(clip, monkeypatch, caplog, blow):
    """The child is stopped, or ended, when it is asked for the waveform."""
    monkeypatch.setattr(samples, "_DECODING", samples._DECODING.model_copy(update={"deadline_s": 6.0}))
    asked = ChildDecoder.waveform

    def struck(decoder, path, bins, duration_s):
        if "bad" in path:
            os.kill(decoder.pid, blow)
        return asked(decoder, path, bins, duration_s)

    monkeypatch.setattr(ChildDecoder, "waveform", struck)
    bad = clip.with_name("bad.mp4")
    shutil.copy(clip, bad)
    page = Page(render_annotation_report(SUMMARY, EVENTS, [sample(bad, "bad"), sample(clip)]))
    assert len(page.images) == 8, "both have their pictures"
    assert sum("The sound track can't be shown: bad.mp4" in text for text in page.texts) == 1
    assert sum(tag == "path" and a["d"].count("L") > 500 for tag, a in page.elements) == 1
    assert "bad: no waveform in the report: bad.mp4" in caplog.text


def test_the_file_needs_nothing_beside_it_and_is_the_same_each_time(tmp_path, clip, clip_html):
    path = write_annotation_report(tmp_path, SUMMARY, iter(EVENTS), [sample(clip)])
    assert path == tmp_path / "report" / "index.html"
    assert list(path.parent.iterdir()) == [path]
    html = path.read_text(encoding="utf-8")
    assert html == clip_html
    images = Page(html).images
    assert images and all(image.startswith("data:image/jpeg;base64,") for image in images)


GREY = np.full((120, 160, 3), 128, np.uint8)


def edge(picture: Image.Image, color: str, row: int, left: int, right: int) -> np.ndarray:
    """Which pixels of a row have the colour."""
    return np.all(np.asarray(picture)[row, left:right] == ImageColor.getrgb(color), axis=-1)


def test_audible_boxes_are_solid_and_silent_ones_dashed():
    box = (20.0, 30.0, 100.0, 90.0)
    solid = draw_frame(GREY, [TrackBox("x", box, True, "#009E73")], labels=False)
    dashed = draw_frame(GREY, [TrackBox("x", box, False, "#009E73")], labels=False)
    assert solid.size == (320, 240) and solid.mode == "RGB"
    assert edge(solid, "#009E73", 60, 40, 200).all()
    assert edge(solid, "#009E73", 180, 40, 200).all()
    on = edge(dashed, "#009E73", 60, 40, 200)
    assert 0.4 < on.mean() < 0.75
    assert on[0] and on[-1], "dashes close the corners"
    assert solid.getpixel((120, 120)) == (128, 128, 128), "the inside is left alone"
    assert solid.getpixel((20, 20)) == (128, 128, 128), "and so is the outside"


def test_boxes_follow_scale_and_video_size():
    box = (40.0, 60.0, 200.0, 180.0)  # in a video of 320 x 240, of which the frame is a half
    got = draw_frame(GREY, [TrackBox("x", box, True, "#D55E00")], scale=3.0, video_size=(320, 240), labels=False)
    assert got.size == (480, 360)
    assert edge(got, "#D55E00", 90, 60, 300).all() and edge(got, "#D55E00", 270, 60, 300).all()
    columns = np.asarray(got)[100:260, [60, 300]]
    assert (columns == ImageColor.getrgb("#D55E00")).all()


def test_chips_carry_the_colour_and_a_loudspeaker_when_audible():
    box = (20.0, 60.0, 100.0, 110.0)

    def chip(audible: bool) -> int:
        """Width of the plate above the box, in pixels."""
        with_chip = np.asarray(draw_frame(GREY, [TrackBox("drum", box, audible, "#56B4E9")])).astype(int)
        without = np.asarray(draw_frame(GREY, [TrackBox("drum", box, audible, "#56B4E9")], labels=False)).astype(int)
        changed = np.abs(with_chip - without).sum(-1) > 0
        assert not changed[124:].any(), "the plate is above the box"
        assert (with_chip[changed] == ImageColor.getrgb("#56B4E9")).all(-1).mean() > 0.4
        return int(changed.any(axis=0).sum())

    assert chip(True) - chip(False) >= 12


def test_chips_do_not_cover_each_other():
    tracks = [
        TrackBox(name, (20.0, 60.0, 100.0, 110.0), False, color)
        for name, color in zip(("drum", "bell"), figures.PALETTE, strict=False)
    ]
    together = np.asarray(draw_frame(GREY, tracks))
    alone = np.asarray(draw_frame(GREY, tracks[:1]))
    plate = np.all(alone[:116] == ImageColor.getrgb(figures.PALETTE[0]), axis=-1)
    assert plate.sum() > 100
    assert (together[:116][plate] == ImageColor.getrgb(figures.PALETTE[0])).all()


@pytest.mark.parametrize(
    "box",
    [(-50.0, -9.0, 900.0, 700.0), (159.0, 119.0, 160.0, 120.0), (30.0, 30.0, 30.0, 30.0), (90.0, 80.0, 10.0, 20.0)],
)
def test_odd_boxes_are_drawn_within_the_picture(box):
    drawn = draw_frame(GREY, [TrackBox("a very long name that does not fit in" * 3, box, False)])
    assert drawn.size == (320, 240)
    assert np.any(np.all(np.asarray(drawn) == ImageColor.getrgb(figures.PALETTE[0]), axis=-1))


def test_a_picture_without_tracks_is_only_enlarged():
    assert (np.asarray(draw_frame(GREY, [])) == 128).all()


def test_tracks_at_a_time_keep_their_colour_over_events():
    box = (0.0, 0.0, 1.0, 1.0)

    def annotation(number: int, *names: str) -> EventAnnotation:
        tracks = tuple(Track(index, name, True, (1.4, 2.4), (box, box), (1.0, 1.0)) for index, name in enumerate(names))
        return EventAnnotation(Event(number, 1.4, 3.0, "x"), tracks=tracks)

    first, second = annotation(1, "dog", "cat", "dog"), annotation(2, "cat", "dog")
    colors = track_colors([first, second])
    assert colors[1, 0] == colors[2, 1] and colors[1, 1] == colors[2, 0]
    assert len({colors[1, 0], colors[1, 1], colors[1, 2]}) == 3
    assert [found.name for found in tracks_at(first.tracks, 2.4)] == ["dog", "cat", "dog"]
    assert tracks_at(first.tracks, 1.9) == []
    assert tracks_at(first.tracks, 1.4, {0: "#123456"})[0].color == "#123456"


@pytest.mark.parametrize("color", figures.PALETTE)
def test_names_on_chips_can_be_read(color):
    def luminance(name: str) -> float:
        parts = [channel / 255 for channel in ImageColor.getrgb(name)]
        linear = [part / 12.92 if part <= 0.04045 else math.pow((part + 0.055) / 1.055, 2.4) for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    darker, lighter = sorted((luminance(color), luminance(text_color(color))))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_neighbouring_palette_colours_differ():
    rgb = [np.array(ImageColor.getrgb(color), int) for color in figures.PALETTE]
    assert len(set(figures.PALETTE)) == len(rgb)
    assert all(np.abs(a - b).sum() > 100 for a, b in pairwise(rgb))
