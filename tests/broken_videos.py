"""Video files of every awkward kind, written with PyAV: sound, strange containers, and damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_MS = Fraction(1, 1000)


@dataclass(frozen=True)
class Recipe:
    """A video whose pictures tell their own number; ``gaps_ms`` are repeated between pictures (VFR if they differ)."""

    pictures: int = 60
    width: int = 96
    height: int = 80
    gaps_ms: tuple[int, ...] = (40,)
    start_ms: int = 0
    b_frames: int = 2
    rotation: int = 0
    pixel_aspect: int = 1  # how many times as wide as high a pixel is, before the rotation
    sound: bool = True
    picture: bool = True
    codec: str = "libx264"
    sound_codec: str = "aac"
    sound_rate: int = 44100
    sound_level: float = 0.5
    sound_from_s: float = 0.0
    key_every: int = 20
    container_options: tuple[tuple[str, str], ...] = ()

    def starts_ms(self) -> list[int]:
        """When each picture starts, counted from the first."""
        gaps = [self.gaps_ms[i % len(self.gaps_ms)] for i in range(self.pictures)]
        return [sum(gaps[:i]) for i in range(self.pictures + 1)]


def numbered_picture(number: int, width: int, height: int) -> np.ndarray:
    """A picture that shows ``number`` (below 256) as 2 x 4 dark or bright blocks, with a red mark at its top left."""
    picture = np.full((height, width, 3), 40, np.uint8)
    rows, columns = np.linspace(0, height, 3, dtype=int), np.linspace(0, width, 5, dtype=int)
    for bit in range(8):
        if number >> bit & 1:
            row, column = divmod(bit, 4)
            picture[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = 215
    picture[: height // 8, : width // 12] = (250, 20, 20)
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number that :func:`numbered_picture` wrote."""
    height, width = picture.shape[:2]
    centre = [(height * (2 * (bit // 4) + 1) // 4, width * (2 * (bit % 4) + 1) // 8) for bit in range(8)]
    return sum(int(picture[y - 2 : y + 3, x - 2 : x + 3].mean() > 128) << bit for bit, (y, x) in enumerate(centre))


def write_video(path: Path, recipe: Recipe = Recipe()) -> Path:
    """Write the file that the recipe describes; its ending chooses the container."""
    with av.open(str(path), "w", options=dict(recipe.container_options)) as container:
        pictures = _add_pictures(container, recipe) if recipe.picture else None
        sound = container.add_stream(recipe.sound_codec, rate=recipe.sound_rate) if recipe.sound else None
        if sound is not None:
            sound.layout = "mono"
        if pictures is not None:
            _encode_pictures(container, pictures, recipe)
        if sound is not None:
            _encode_sound(container, sound, recipe)
    return path


def _add_pictures(container, recipe: Recipe):
    stream = container.add_stream(recipe.codec, rate=Fraction(1000, round(np.mean(recipe.gaps_ms))))
    stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, "yuv420p"
    if recipe.width % 2 or recipe.height % 2:
        stream.pix_fmt = "yuv444p"
    stream.codec_context.time_base = _MS
    stream.codec_context.thread_count = 1
    if recipe.codec == "libx264":
        structure = {"bf": str(recipe.b_frames), "g": str(recipe.key_every)}
        stream.codec_context.options = {"preset": "veryfast", "crf": "10", **structure}
    if recipe.codec == "libx265":  # leading pictures (open GOP) are its default
        parameters = f"keyint={recipe.key_every}:bframes=3:qp=10:pools=1:log-level=none"
        stream.codec_context.options = {"preset": "ultrafast", "x265-params": parameters}
    stream.codec_context.sample_aspect_ratio = Fraction(recipe.pixel_aspect)
    if recipe.rotation:
        stream.set_display_rotation(recipe.rotation)
    return stream


def _encode_pictures(container, stream, recipe: Recipe) -> None:
    for number, start_ms in enumerate(recipe.starts_ms()[:-1]):
        picture = numbered_picture(number % 256, recipe.width, recipe.height)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = recipe.start_ms + start_ms, _MS
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _encode_sound(container, stream, recipe: Recipe) -> None:
    rate, block = recipe.sound_rate, 1024
    time_s = np.arange(int(recipe.starts_ms()[-1] / 1000 * rate)) / rate
    tone = np.where(time_s >= recipe.sound_from_s, recipe.sound_level * np.sin(2 * np.pi * 440 * time_s), 0.0)
    for start in range(0, len(tone), block):
        samples = tone[None, start : start + block].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = start + round(recipe.start_ms / 1000 * rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def cut_file(source: Path, target: Path, share: float) -> Path:
    """The first part of a file: a download that broke off."""
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def trim_without_decoding(source: Path, target: Path, from_s: float) -> Path:
    """A copy that starts between two keyframes: its edit list hides the pictures before ``from_s``."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.pts is None:
                continue
            shift = round(from_s / packet.time_base)
            if packet.pts - shift >= -round(1 / packet.time_base):
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                writer.mux(packet)
    return target


def break_sound(source: Path, target: Path) -> Path:
    """A copy in which the sound's packets hold noise, the pictures are untouched."""
    noise = np.random.default_rng(0)
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.dts is None:
                continue
            sound = packet.stream.type == "audio"
            packet.stream = copies[packet.stream_index]
            if sound:
                packet.update(noise.integers(0, 256, packet.size, dtype=np.uint8).tobytes())
            writer.mux(packet)
    return target


def _without_pictures(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
        container.start_encoding()
    return path


def _cut_at_the_end(path: Path) -> Path:
    return cut_file(write_video(path.with_name("whole.mp4")), path, 0.6)


def _cut_with_index(path: Path) -> Path:
    whole = write_video(path.with_name("whole.mp4"), Recipe(container_options=(("movflags", "+faststart"),)))
    return cut_file(whole, path, 0.6)


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


def _written(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def _jpeg(path: Path) -> Path:
    from PIL import Image

    Image.fromarray(numbered_picture(5, 96, 80)).save(path, "JPEG")
    return path


# reason of the errors row -> what makes a file (named .mp4) that earns it
BROKEN: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "missing": ("missing_file", lambda path: path),
    "directory": ("not_a_file", _directory),
    "empty": ("empty_file", _written(b"")),
    "text": ("not_a_video", _written(b"What is a video?\n" * 50)),
    "playlist": ("not_a_video", _written(b"#EXTM3U\n#EXTINF:10,\n/etc/hostname\n#EXT-X-ENDLIST\n")),
    "script": ("not_a_video", _written(b"ffconcat version 1.0\nfile /etc/hostname\n")),
    "jpeg": ("not_a_video", _jpeg),
    "cut without moov": ("truncated", _cut_at_the_end),
    "cut with moov": ("truncated", _cut_with_index),
    "sound only": ("no_video_stream", lambda path: write_video(path, Recipe(picture=False))),
    "zero length": ("no_frames", _without_pictures),
}
