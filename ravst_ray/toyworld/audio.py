"""Sounds of the toy world: a voice of its own for every class, heard only during its events."""

from __future__ import annotations

import numpy as np

from ravst_ray.toyworld.scene import Scene
from ravst_ray.toyworld.sprites import COLOURS

SAMPLE_RATE_HZ = 44_100
_RATIO = (160, 441)  # of the 16 kHz that models hear to the rate above
_PITCH_HZ = dict(zip(COLOURS, (196.0, 262.0, 349.0, 466.0), strict=True))
_FADE_S = 0.02
CLICK_S = 0.06


def soundtrack(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The whole sound of a scene as float32 ``[samples]`` in [-1, 1].

    Outside the events it is digital silence, if the scene has neither a noise floor nor clicks.
    """
    track = np.zeros(round(scene.duration_s * SAMPLE_RATE_HZ), np.float32)
    for sprite in scene.sprites:
        for start_s, end_s in sprite.events_s:
            first, last = round(start_s * SAMPLE_RATE_HZ), min(round(end_s * SAMPLE_RATE_HZ), len(track))
            track[first:last] += voice(sprite.name, (last - first) / SAMPLE_RATE_HZ, rng)[: last - first]
    for at_s in scene.clicks_s:
        first = round(at_s * SAMPLE_RATE_HZ)
        burst = _click(rng)[: len(track) - first]
        track[first : first + len(burst)] += burst
    if scene.floor_db is not None:
        track += rng.normal(0, 10 ** (scene.floor_db / 20), len(track)).astype(np.float32)
    return np.clip(track, -1, 1)


def heard(track: np.ndarray, samples: int) -> np.ndarray:
    """A sound track at 16 kHz, as models that hear take it: ``samples`` of it, silence behind a shorter one."""
    from scipy.signal import resample_poly

    sound = resample_poly(track, *_RATIO)[:samples].astype(np.float32)
    return np.pad(sound, (0, samples - len(sound)))


def _click(rng: np.random.Generator) -> np.ndarray:
    """A loud crack of 0.06 s that dies away."""
    times = np.arange(round(CLICK_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.5 * rng.normal(0, 0.5, len(times)) * np.exp(-times / 0.015)).astype(np.float32)


def voice(name: str, duration_s: float, rng: np.random.Generator) -> np.ndarray:
    """``duration_s`` of the sound of a class: its shape gives the timbre, its colour the pitch."""
    colour, shape = name.split()
    times = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    wave = _TIMBRES[shape](times, _PITCH_HZ[colour], rng)
    edge = np.clip(np.minimum(times, duration_s - times) / _FADE_S, 0, 1)
    return (0.35 * wave * edge).astype(np.float32)


def _drum(times: np.ndarray, pitch_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Four beats a second: a falling thump with a noisy attack, over a faint roll."""
    beat = times % 0.25
    thump = np.sin(2 * np.pi * pitch_hz * 0.4 * (beat + 0.02 * (1 - np.exp(-beat / 0.03)))) * np.exp(-beat / 0.12)
    return thump + rng.normal(0, 0.35, len(times)) * (np.exp(-beat / 0.02) + 0.12)


def _bell(times: np.ndarray, pitch_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Two strokes a second with the partials of a church bell."""
    stroke = times % 0.5
    partials = ((1.0, 0.5), (2.0, 0.35), (2.4, 0.25), (3.0, 0.2), (4.2, 0.12))
    tone = sum(share * np.sin(2 * np.pi * 2 * pitch_hz * ratio * times) for ratio, share in partials)
    return tone * np.exp(-stroke / 0.3)


def _ball(times: np.ndarray, pitch_hz: float, rng: np.random.Generator) -> np.ndarray:
    """A rubber squeak that slides up and down three times a second."""
    slide = 0.25 * np.sin(2 * np.pi * 3 * times) / (2 * np.pi * 3)
    phase = 2 * np.pi * 3 * pitch_hz * (times + slide)
    return np.sin(phase) * (0.7 + 0.3 * np.cos(2 * np.pi * 6 * times)) + 0.3 * np.sin(2 * phase)


_TIMBRES = {"drum": _drum, "bell": _bell, "ball": _ball}
