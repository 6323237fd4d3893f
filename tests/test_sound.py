"""The sound that a model is given: in time with the pictures, as long as they are, and told where there is none."""

from fractions import Fraction

import av
import numpy as np
import pytest

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.config.video_llm import FramesConfig
from ravst_ray.errors import StepError
from ravst_ray.media.audio import samples
from ravst_ray.media.clips import show_video
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.toyworld.audio import SAMPLE_RATE_HZ as TOY_HZ
from ravst_ray.toyworld.scene import random_scene
from ravst_ray.toyworld.world import write_video as write_toy
from tests.broken_videos import Recipe, break_sound, write_video

HZ = 16_000


@pytest.fixture(scope="module")
def decoder():
    child = ChildDecoder(DecodeConfig())
    yield child
    child.close()


def beeps(duration_s, rate=HZ):
    """A tone of 440 Hz in the first half of every second."""
    time_s = np.arange(round(duration_s * rate)) / rate
    return np.where(time_s % 1 < 0.5, 0.5 * np.sin(2 * np.pi * 440 * time_s), 0.0).astype(np.float32)


def write_beeps(path, codec="aac", rate=44100, gains=(1.0,), start_s=0.0, cut_s=None, layout="mono"):
    """Four seconds of black pictures with beeps from ``start_s`` on; the track lacks what lies in ``cut_s``."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=10)
        pictures.width = pictures.height = 64
        pictures.pix_fmt = "yuv420p"
        track = container.add_stream(codec, rate=rate, layout=layout)
        for _ in range(40):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(pictures.encode(None))
        tone = np.stack([gain * beeps(4.0, rate) for gain in gains])
        spans = [(0.0, 4.0)] if cut_s is None else [(0.0, cut_s[0]), (cut_s[1], 4.0)]
        for first, last in ([round(edge * rate) for edge in span] for span in spans):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, first:last]), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = first + round(start_s * rate)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def late_by_samples(heard, true):
    """By how much one sound follows another, within 50 ms."""
    shifts = range(-800, 801)
    return min(shifts, key=lambda shift: np.abs(np.roll(true, shift) - heard)[800:-800].mean())


@pytest.mark.parametrize(
    ("name", "made", "gain"),
    [
        ("aac.mp4", {}, 1.0),
        ("aac48.mp4", {"rate": 48000}, 1.0),
        ("opus.mkv", {"codec": "libopus", "rate": 48000}, 1.0),
        ("mp3.mkv", {"codec": "libmp3lame", "rate": 44100}, 1.0),
        ("stereo.mp4", {"layout": "stereo", "gains": (1.0, 0.5)}, 0.75),  # the mean of both
    ],
)
def test_sound_is_in_time_with_the_pictures(tmp_path, name, made, gain):
    heard = samples(str(write_beeps(tmp_path / name, **made)), 4.0)
    true = gain * beeps(4.0)
    assert heard.dtype == np.float32 and len(heard) == 4 * HZ
    assert abs(late_by_samples(heard, true)) <= 2  # 0.1 ms
    assert np.abs(heard - true).mean() < 0.01
    assert np.square(heard).mean() == pytest.approx(np.square(true).mean(), rel=0.12)


def test_gaps_are_silent_and_nothing_moves(tmp_path):
    path = write_beeps(tmp_path / "gap.mkv", codec="pcm_s16le", cut_s=(1.2, 2.3))
    true = beeps(4.0)
    true[round(1.2 * HZ) : round(2.3 * HZ)] = 0
    assert np.abs(samples(str(path), 4.0) - true).mean() < 1e-3
    late = samples(str(write_beeps(tmp_path / "late.mkv", codec="pcm_s16le", start_s=0.7)), 6.0)
    true = np.zeros(6 * HZ, np.float32)
    true[round(0.7 * HZ) : round(4.7 * HZ)] = beeps(4.0)
    assert np.abs(late - true).mean() < 1e-3
    assert len(samples(str(path), 1.37)) == round(1.37 * HZ)


def test_sound_beyond_all_scales_is_cut_off(tmp_path):
    """A track of floats may say anything; of the squares of 1e30 nothing finite would be left for a model."""
    path = write_beeps(tmp_path / "loud.mkv", codec="pcm_f32le", rate=HZ, gains=(2e30,))
    heard = samples(str(path), 4.0)
    true = beeps(4.0)
    assert (heard == np.clip(np.sign(true) * 1e30, -8, 8)).mean() > 0.99
    assert samples(str(write_beeps(tmp_path / "over.mkv", codec="pcm_f32le", rate=HZ, gains=(3.0,))), 4.0).max() > 1.49


def test_toy_files_are_no_longer_late(tmp_path):
    scene = random_scene(np.random.default_rng(3), 4.0)
    write_toy(tmp_path / "toy.mp4", scene, beeps(4.0, TOY_HZ))
    assert abs(late_by_samples(samples(str(tmp_path / "toy.mp4"), 4.0), beeps(4.0))) <= 2


def show(decoder, path, duration_s=2.4, **config):
    return show_video(decoder, "v", str(path), duration_s, FramesConfig(**config))


def test_a_clip_has_the_sound_that_is_asked_for(decoder, tmp_path):
    path = write_video(tmp_path / "tone.mkv", Recipe(sound_codec="pcm_s16le", sound_from_s=1.0))  # 2.4 s of pictures
    clip, view = show(decoder, path, step_s=0.7, sound="own")
    assert (len(clip.frames), len(clip.sound), view.heard) == (4, 44800, True)  # 4 * 0.7 s, longer than the file
    time_s = np.arange(44800) / HZ
    true = np.where((time_s >= 1.0) & (time_s < 2.4), 0.5 * np.sin(2 * np.pi * 440 * time_s), 0.0)
    assert np.abs(clip.sound - true).mean() < 1e-3
    silent, view = show(decoder, path, step_s=0.7, sound="silence")
    assert (len(silent.sound), np.abs(silent.sound).max(), view.heard) == (44800, 0.0, None)
    for none in ("none", "auto"):
        clip, view = show(decoder, path, sound=none)
        assert clip.sound is None and view.heard is None


def test_a_file_without_sound_is_silence_and_marked(decoder, tmp_path):
    mute = write_video(tmp_path / "mute.mp4", Recipe(sound=False))
    broken = break_sound(write_video(tmp_path / "whole.mp4"), tmp_path / "broken.mp4")
    for path in (mute, broken):
        clip, view = show(decoder, path, sound="own")
        assert (len(clip.sound), np.abs(clip.sound).max(), view.heard) == (3 * HZ, 0.0, False)


def test_videos_whose_frames_would_be_too_far_apart_are_refused(decoder, tmp_path):
    path = write_video(tmp_path / "v.mp4")
    show(decoder, path, max_frames=4, step_s=0.6, max_step_s=0.6)
    with pytest.raises(StepError) as caught:
        show(decoder, path, max_frames=2, step_s=0.6, max_step_s=1.0)
    assert caught.value.reason == "step_too_long" and "1.2 s between" in caught.value.message
