"""Pictures as a player shows them: decord where it is proven right, PyAV for all the rest, each against known truth."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.config.video_llm import FramesConfig
from ravst_ray.errors import StepError
from ravst_ray.media import decord_decoder, pyav_decoder
from ravst_ray.media.audio import loudness
from ravst_ray.media.clips import show_video
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.media.display import is_combed
from ravst_ray.media.index import VideoIndex, index_video
from ravst_ray.media.sampling import Sampled, sample_video
from tests.broken_videos import Recipe, numbered_picture, read_number, trim_without_decoding, write_video


def sample(path: Path, times_s, backend: str = "auto", **settings) -> tuple[Sampled, list[np.ndarray]]:
    """What a video looks like at the given times, and what is said about it."""
    jpegs: list[bytes] = []
    config = DecodeConfig.model_validate({"backend": backend, "max_side_px": 2048, **settings})
    sampled = sample_video(str(path), times_s, config, jpegs.append)
    pictures = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]
    return sampled, [pictures[place] for place in sampled.picture_T]


def write_pictures(
    path: Path, pictures: list[np.ndarray], codec: str = "libx264", pixels: str = "yuv420p", setup=None, **options: str
) -> Path:
    """RGB pictures (or frames), 25 a second; ``setup`` is given the stream before it begins."""
    frames = [one if isinstance(one, av.VideoFrame) else av.VideoFrame.from_ndarray(one, "rgb24") for one in pictures]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"crf": "4", "preset": "veryfast", **options}
        if setup:
            setup(stream)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbered(count: int = 60, width: int = 96, height: int = 80) -> list[np.ndarray]:
    return [numbered_picture(number % 256, width, height) for number in range(count)]


# --- the sweep: what decord is given ---------------------------------------------------------------------------------


def x264(**parameters: str) -> Callable[[Path], Path]:
    given = ":".join(f"{name.replace('_', '-')}={value}" for name, value in parameters.items())
    return lambda path: write_pictures(path, numbered(), **{"x264-params": given})


def x265(parameters: str, **more) -> Callable[[Path], Path]:
    given = {"x265-params": f"{parameters}:pools=1:log-level=none"}
    return lambda path: write_pictures(path, numbered(), "libx265", **more, **given)


def remux(source: Callable[[Path], Path], change: Callable[[list], None]) -> Callable[[Path], Path]:
    """The packets of another file, changed."""

    def write(path: Path) -> Path:
        whole = source(path.with_name(f"whole{path.suffix}"))
        with av.open(str(whole)) as reader, av.open(str(path), "w") as writer:
            copy = writer.add_stream_from_template(reader.streams.video[0])
            packets = [packet for packet in reader.demux(reader.streams.video[0]) if packet.dts is not None]
            change(packets)
            for packet in packets:
                packet.stream = copy
                writer.mux(packet)
        return path

    return write


def two_streams(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
            stream.codec_context.thread_count = 1
        for number in range(60):
            for shift, stream in zip((0, 100), streams, strict=True):
                frame = av.VideoFrame.from_ndarray(numbered_picture(number + shift, 96, 80), "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


def later(packets: list) -> None:
    for packet in packets:
        packet.pts, packet.dts = packet.pts + 9000, packet.dts + 9000


def trimmed(path: Path) -> Path:
    return trim_without_decoding(write_video(path.with_name(f"long{path.suffix}"), Recipe(sound=False)), path, 1.0)


SVT = {"svtav1-params": "enable-tf=0:lp=1"}
IDR = {"bframes": "3", "keyint": "12"}
# name of the file -> what writes it, whether decord is proven for it
SWEEP: dict[str, tuple[Callable[[Path], Path], bool]] = {
    "plain.mp4": (x264(), True),
    "plain.mkv": (x264(), True),
    "plain.mov": (x264(), True),
    "plain.m4v": (x264(), True),
    "pyramid.mp4": (x264(bframes="8", b_pyramid="normal", keyint="12"), True),
    "no_b_frames.mp4": (x264(bframes="0", keyint="7"), True),
    "many_references.mkv": (x264(**IDR, ref="8"), True),
    "weighted.mp4": (x264(**IDR, weightp="2", weightb="1"), True),
    "slices.mp4": (x264(**IDR, slices="4"), True),
    "all_intra.mp4": (x264(keyint="1"), True),
    "baseline.mp4": (x264(cabac="0", bframes="0", weightp="0", min_keyint="1"), True),
    "one_keyframe.mp4": (x264(keyint="500"), True),
    "scene_cuts.mkv": (x264(keyint="50", scenecut="80"), True),
    "hevc.mp4": (x265("keyint=12:bframes=3:open-gop=0"), True),
    "hevc.mkv": (x265("keyint=12:bframes=0:open-gop=0"), True),
    "variable_rate.mp4": (lambda path: write_video(path, Recipe(gaps_ms=(20, 110))), True),
    "variable_rate.mkv": (lambda path: write_video(path, Recipe(gaps_ms=(10, 40, 300), pictures=30)), True),
    "starts_late.mp4": (remux(x264(**IDR), later), True),
    "with_sound.mp4": (lambda path: write_video(path, Recipe()), True),
    "intra_refresh.mp4": (x264(intra_refresh="1", keyint="25", bframes="0", scenecut="0"), False),
    "intra_refresh.mkv": (x264(intra_refresh="1", keyint="25", bframes="0", scenecut="0"), False),
    "open_gop.mp4": (x264(**IDR, open_gop="1"), False),
    "open_gop_hevc.mp4": (x265("keyint=12:bframes=3:open-gop=1"), False),
    "two_streams.mp4": (two_streams, False),
    "edit_list.mp4": (trimmed, False),
    "fragmented.mp4": (
        lambda path: write_video(path, Recipe(container_options=(("movflags", "frag_keyframe+empty_moov"),))),
        False,
    ),
    "ten_bits.mp4": (lambda path: write_pictures(path, numbered(), pixels="yuv420p10le"), False),
    "full_chroma.mp4": (lambda path: write_pictures(path, numbered(), pixels="yuv444p"), False),
    "full_range.mp4": (lambda path: write_pictures(path, numbered(), pixels="yuvj420p"), False),
    "mpeg4.mp4": (lambda path: write_pictures(path, numbered(), "mpeg4", bf="2", g="12"), False),
    "vp9.webm": (lambda path: write_pictures(path, numbered(), "libvpx-vp9", **{"cpu-used": "8"}), False),
    "av1.mp4": (lambda path: write_pictures(path, numbered(), "libsvtav1", preset="10", **SVT), False),
    "mpeg2.mpg": (lambda path: write_pictures(path, numbered(), "mpeg2video", bf="2", g="12"), False),
    "mpeg2.ts": (lambda path: write_pictures(path, numbered(), "mpeg2video", bf="2", g="12"), False),
    "h264.ts": (x264(**IDR), False),
    "h264.flv": (x264(**IDR), False),
    "motion_jpeg.avi": (lambda path: write_pictures(path, numbered(), "mjpeg", pixels="yuvj420p"), False),
    "b_frames.avi": (lambda path: write_pictures(path, numbered(), "mpeg4", bf="2", g="12"), False),
    "b_frames_h264.avi": (x264(**IDR), False),
    "narrow.mp4": (lambda path: write_pictures(path, numbered(width=48, height=40)), False),
}
SHIFTED = {"edit_list.mp4": 25}  # pictures that the file hides


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Callable[[str], tuple[Path, VideoIndex]]:
    folder, made = tmp_path_factory.mktemp("sweep"), {}

    def get(name: str) -> tuple[Path, VideoIndex]:
        if name not in made:
            path = folder / Path(name).stem / name
            path.parent.mkdir(exist_ok=True)
            made[name] = SWEEP[name][0](path), index_video(str(path))
        return made[name]

    return get


@pytest.mark.parametrize("name", SWEEP)
def test_decord_is_given_what_it_is_proven_for(name, sweep):
    doubt = decord_decoder.unproven(sweep(name)[1])
    assert bool(doubt) is not SWEEP[name][1], doubt


@pytest.mark.parametrize("name", [name for name, (_, proven) in SWEEP.items() if proven])
def test_decord_gives_the_same_pictures_as_pyav_whatever_is_asked_for(name, sweep):
    _, index = sweep(name)
    size = index.display.size
    every = range(len(index))
    truth = [picture.rgb for picture in pyav_decoder.read_pictures(index, every, size, 10**6)]
    for wanted in (every, every[::7], every[5::23], every[-1:], every[3:4]):
        for number, picture in zip(wanted, decord_decoder.read_pictures(index, wanted), strict=True):
            assert np.abs(picture.astype(int) - truth[number]).mean() < 2, (wanted, number)


@pytest.mark.parametrize("name", SWEEP)
def test_every_picture_is_the_one_of_its_number(name, sweep):
    """Read one after the other, with gaps, and backwards by single requests; what isn't needed may be skipped."""
    _, index = sweep(name)
    shift, size = SHIFTED.get(name, 0), index.display.size
    every = range(len(index))
    for wanted in (every, every[::7], every[5::23], every[-1:], every[3:4]):
        seen = [read_number(picture.rgb) for picture in pyav_decoder.read_pictures(index, wanted, size, 10**6)]
        assert seen == [number + shift for number in wanted], wanted


def test_the_decoder_is_chosen_and_named(sweep):
    for name, decoder in (("plain.mp4", "decord 0.6"), ("intra_refresh.mp4", "pyav")):
        path, _ = sweep(name)
        sampled, (picture,) = sample(path, [1.0])
        assert sampled.meta.decoder.startswith(decoder) and read_number(picture) == 25
        assert sample(path, [1.0], "pyav")[0].meta.decoder.startswith("pyav")
    assert sample(sweep("plain.mp4")[0], [1.0], "decord")[0].meta.decoder.startswith("decord")
    with pytest.raises(StepError, match=r"keyframes need pictures before them; set decode\.backend=auto") as caught:
        sample(sweep("intra_refresh.mp4")[0], [1.0], "decord")
    assert caught.value.reason == "not_for_decord"


def test_a_second_video_stream_is_told(sweep):
    sampled, pictures = sample(sweep("two_streams.mp4")[0], [0.0, 1.0, 2.0])
    assert [read_number(picture) for picture in pictures] == [0, 25, 50]
    assert sampled.meta.notes == "1 of 2 video streams"


# --- time 0 ----------------------------------------------------------------------------------------------------------


def sound_first(path: Path, pictures_from_s: float) -> Path:
    """4 s of sound, and pictures that begin later."""
    whole = write_video(path.with_name("all.mp4"), Recipe(pictures=100, key_every=1, b_frames=0))
    with av.open(str(whole)) as reader, av.open(str(path), "w") as writer:
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            picture = packet.stream.type == "video"
            if packet.dts is None or (picture and packet.pts * packet.time_base < pictures_from_s):
                continue
            packet.stream = copies[packet.stream_index]
            writer.mux(packet)
    return path


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_the_first_picture_stands_for_the_time_before_it(backend, tmp_path):
    path = sound_first(tmp_path / "cut.mp4", 2.0)
    sampled, pictures = sample(path, [0.0, 1.0, 1.9, 2.0, 3.0], backend)
    assert sampled.times_s == (0.0, 1.0, 1.9, 2.0, 3.0)
    assert [read_number(picture) for picture in pictures] == [50, 50, 50, 50, 75]
    assert sampled.meta.notes == "the first picture, of 2.0 s, stands for the time before it"
    assert sample(path, [2.5], backend)[0].meta.notes == ""


def test_what_annotation_accepts_can_be_asked(tmp_path):
    decoder = ChildDecoder(DecodeConfig())
    path = sound_first(tmp_path / "cut.mp4", 2.0)
    clip, view = show_video(decoder, "cut", str(path), 3.9, FramesConfig())
    decoder.close()
    assert view.frames == len(clip.frames) and np.abs(clip.frames[0].astype(int) - clip.frames[1]).mean() < 1
    assert view.frames * view.step_s == pytest.approx(3.9, abs=view.step_s)


# --- as a player shows it --------------------------------------------------------------------------------------------

MATRICES = {  # a, b, c, d: a picture's (x, y) is shown at (a x + c y, b x + d y)
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1], "mirrored left-right"),
    "flipped": ((1, 0, 0, -1), lambda p: p[::-1], "mirrored top-bottom"),
    "half turn": ((-1, 0, 0, -1), lambda p: p[::-1, ::-1], "turned by 180 degrees"),
    "right": ((0, 1, -1, 0), lambda p: np.rot90(p, -1), "turned right by 90 degrees"),
    "left": ((0, -1, 1, 0), lambda p: np.rot90(p, 1), "turned left by 90 degrees"),
    "transposed": (
        (0, 1, 1, 0),
        lambda p: np.rot90(p, -1)[:, ::-1],
        "turned right by 90 degrees and mirrored left-right",
    ),
    "turned and mirrored": (
        (0, -1, -1, 0),
        lambda p: np.rot90(p, 1)[:, ::-1],
        "turned left by 90 degrees and mirrored left-right",
    ),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_display_matrices(kind, tmp_path):
    (a, b, c, d), turn, note = MATRICES[kind]
    plain = write_pictures(tmp_path / "plain.mp4", numbered(5))
    content = plain.read_bytes()
    unity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    wanted = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    track = content.index(b"tkhd")
    shown = tmp_path / "shown.mp4"
    shown.write_bytes(content[:track] + content[track:].replace(unity, wanted, 1))
    (upright,), (sampled, (picture,)) = sample(plain, [0.1])[1], sample(shown, [0.1])
    assert picture.shape == turn(upright).shape == (sampled.meta.height, sampled.meta.width, 3)
    assert np.abs(picture.astype(int) - turn(upright)).mean() < 2
    assert sampled.meta.notes == note


@pytest.mark.parametrize(
    ("coded", "pixel", "shown"),
    [
        ((144, 108), Fraction(4, 3), (192, 108)),
        ((72, 48), Fraction(32, 27), (85, 48)),
        ((72, 58), Fraction(9, 16), (72, 103)),
    ],
)
def test_pixels_that_are_not_square(coded, pixel, shown, tmp_path):
    def setup(stream):
        stream.codec_context.sample_aspect_ratio = pixel

    path = write_pictures(tmp_path / "wide.mp4", numbered(5, *coded), setup=setup)
    for max_side_px, scale in ((2048, 1.0), (64, 64 / max(shown))):
        sampled, (picture,) = sample(path, [0.1], max_side_px=max_side_px)
        assert (sampled.meta.width, sampled.meta.height) == shown
        assert picture.shape[:2] == (round(shown[1] * scale), round(shown[0] * scale))
        if scale == 1.0:
            truth = Image.fromarray(numbered_picture(2, *coded)).resize(shown, Image.Resampling.BICUBIC)
            assert np.abs(picture.astype(int) - np.asarray(truth)).mean() < 6
    assert sampled.meta.notes == "{}x{} in square pixels".format(*shown)


def woven(count: int = 40) -> list[np.ndarray]:
    """Pictures of a bar that moves on by 4 pixels each field: the upper lines from one moment, the lower a field on."""
    made = []
    for number in range(count):
        picture = np.full((128, 192, 3), 30, np.uint8)
        for line in (0, 1):
            left = 8 * (number % 16) + 4 * line + 16
            picture[line::2, left : left + 24] = 220
        made.append(picture)
    return made


@pytest.mark.parametrize("flagged", [True, False])
def test_fields_are_not_shown_woven(flagged, tmp_path):
    """The bar must stand where it stood in the first field, in all lines; combing is a bar of two ragged edges."""
    options = {"x264-params": "tff=1"} if flagged else {}
    path = write_pictures(tmp_path / "fields.mp4", woven(), g="12", **options)
    times_s = [number / 25 for number in range(4, 36, 3)]
    sampled, pictures = sample(path, times_s)
    assert sampled.meta.decoder.startswith("pyav") and "deinterlaced (bwdif)" in sampled.meta.notes
    for time_s, picture in zip(times_s, pictures, strict=True):
        left = 8 * (round(25 * time_s) % 16) + 16
        bright = picture[8:-8, :, 1] > 125
        assert bright[:, left + 4 : left + 20].mean() > 0.97
        assert bright[:, : left - 4].mean() < 0.02 and bright[:, left + 32 :].mean() < 0.02
        assert not is_combed(picture[..., 1])
    assert all(is_combed(picture[..., 1]) for picture in woven())


def test_fields_that_the_container_alone_tells_of(tmp_path):
    """Matroska says that there are fields, its pictures say nothing: they are deinterlaced all the same."""

    def setup(stream):
        stream.codec_context.options = {**stream.codec_context.options, "field_order": "tt"}

    path = write_pictures(tmp_path / "fields.mkv", woven(), g="12", setup=setup)
    _, pictures = sample(path, [number / 25 for number in range(4, 36, 3)])
    assert not any(is_combed(picture[..., 1]) for picture in pictures)


def test_combing_that_begins_late_is_told(tmp_path):
    path = write_pictures(tmp_path / "title.mp4", [woven(1)[0][::2].repeat(2, 0)] * 40 + woven(40), g="12")
    sampled, _ = sample(path, [number / 25 for number in range(0, 80, 4)])
    assert sampled.meta.notes == "combed pictures: 10 of 20"


@pytest.mark.parametrize("tagged", [True, False])
def test_colours_of_hd_are_those_of_bt_709_where_no_matrix_is_named(tagged, tmp_path):
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    frames = []
    for colour in colours:
        picture = np.full((720, 1280, 3), colour, np.uint8)
        frames.append(av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p", dst_colorspace="itu709"))

    def setup(stream):
        stream.codec_context.colorspace = 1 if tagged else 2

    path = write_pictures(tmp_path / "hd.mp4", frames, setup=setup)
    _, pictures = sample(path, [0.0, 0.04, 0.08])
    assert [picture.mean(axis=(0, 1)) for picture in pictures] == [pytest.approx(colour, abs=3) for colour in colours]


def test_fine_lines_are_no_combing():
    assert not any(is_combed(picture[..., 1]) for picture in numbered(8, 192, 128))
    noise = np.random.default_rng(0).integers(0, 256, (270, 480)).astype(np.uint8)
    assert not is_combed(np.asarray(Image.fromarray(noise).resize((960, 540))))
    lines = np.full((120, 160), 240, np.uint8)
    lines[::8] = lines[3::8] = 20  # a table, a page of text
    assert not is_combed(lines)


def pq(nits: float) -> float:
    """SMPTE ST 2084: light in cd/m2 to a signal in [0, 1]."""
    y = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def hlg(light: float) -> float:
    """ITU-R BT.2100: scene light in [0, 1] to a signal."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return (3 * light) ** 0.5 if light <= 1 / 12 else a * np.log(12 * light - b) + c


def grey(signal: float, transfer: int) -> av.VideoFrame:
    frame = av.VideoFrame(96, 80, "yuv420p10le")
    for number, plane in enumerate(frame.planes):
        value = round(64 + 876 * signal) if number == 0 else 512
        plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
    frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = 9, 1, transfer, 9
    return frame


@pytest.mark.parametrize("name", ["PQ", "HLG"])
def test_high_dynamic_range(name, tmp_path):
    """White of 203 cd/m2 (BT.2408) is white, what is darker has BT.1886's signal, what is brighter is white."""
    transfer = {"PQ": 16, "HLG": 18}[name]
    nits = [5.0, 50.0, 100.0, 203.0, 1000.0]
    # HLG on a display of 1000 cd/m2: its light is that of the scene to the power of 1.2
    signals = [pq(n) if name == "PQ" else hlg((n / 1000) ** (1 / 1.2)) for n in nits]

    def setup(stream):
        stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer, 9
        stream.codec_context.colorspace, stream.codec_context.color_range = 9, 1

    pictures = [grey(signal, transfer) for signal in signals for _ in range(5)]
    path = write_pictures(tmp_path / "hdr.mp4", pictures, pixels="yuv420p10le", setup=setup)
    sampled, shown = sample(path, [0.08 + 0.2 * number for number in range(len(nits))])
    assert sampled.meta.notes == f"{name} to SDR, 203 cd/m2 as white"
    truth = [255 * min(1.0, n / 203) ** (1 / 2.4) for n in nits]
    assert [float(picture.mean()) for picture in shown] == pytest.approx(truth, abs=6)


# --- limits ----------------------------------------------------------------------------------------------------------


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    path = write_pictures(tmp_path / "large.mp4", numbered(3, 320, 240))
    with pytest.raises(StepError, match=r"320x240 pixels are more than decode\.max_pixels = 76799") as caught:
        sample(path, [0.0], max_pixels=76799)
    assert (caught.value.reason, caught.value.retryable) == ("too_many_pixels", False)
    assert sample(path, [0.0], max_pixels=76800)[0].meta.width == 320


def test_pictures_that_grow_later_are_refused_too(tmp_path):
    """The second part of a transport stream has larger pictures: the ones before it stand for them."""
    small = write_pictures(tmp_path / "small.ts", numbered(30), g="10", bf="0")
    large = write_pictures(tmp_path / "large.ts", numbered(30, 640, 480), g="10", bf="0")
    path = tmp_path / "grows.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    index = replace(index_video(str(small)), path=str(path))
    frames = list(pyav_decoder.read_pictures(index, range(30), (96, 80), 100 * 100))
    assert [frame.rgb.shape for frame in frames] == [(80, 96, 3)] * 30


def test_of_a_long_file_only_the_part_that_is_wanted_is_read(tmp_path):
    recipe = Recipe(pictures=100, gaps_ms=(2000,), width=64, height=64, key_every=5, b_frames=0, sound_from_s=105.0)
    path = write_video(tmp_path / "long.mp4", recipe)
    times_s = [100.0, 104.0, 108.0]
    index = index_video(str(path), times_s)
    assert (index.part.start_s, index.part.end_s) == (90.0, 118.0)
    assert len(index) < 30 and index.meta.duration_s == pytest.approx(200, abs=2)
    sampled, pictures = sample(path, times_s)
    assert [read_number(picture) for picture in pictures] == [50, 52, 54]
    assert sampled.meta.notes == "read from 90 to 118 s"
    level = sampled.loudness
    assert (level.start_s, len(level.level_db_T)) == (90.0, 280)
    assert max(level.level_db_T[:145]) < -60 and min(level.level_db_T[160:]) > -12
    whole = loudness(str(path), index.meta.duration_s).level_db_T[900:1180]
    assert level.level_db_T[5:-5] == pytest.approx(whole[5:-5], abs=0.5)


def test_a_long_file_in_which_nobody_can_seek_is_read_whole(tmp_path):
    """Its first picture is no keyframe, so that FFmpeg finds none before it."""
    long = write_video(
        tmp_path / "all.mp4", Recipe(pictures=130, gaps_ms=(2000,), key_every=20, b_frames=0, sound=False)
    )
    path = trim_without_decoding(long, tmp_path / "cut.mp4", from_s=10.0)
    _, pictures = sample(path, [30.0, 34.0])
    assert [read_number(picture) for picture in pictures] == [20, 22]


def test_sound_is_measured_where_the_pictures_are_wanted(tmp_path):
    """However long the file says that it is: AVI isn't read in parts."""
    path = write_video(tmp_path / "long.avi", Recipe(pictures=100, gaps_ms=(2000,), codec="mpeg4", sound_codec="mp3"))
    level = sample(path, [20.0, 30.0])[0].loudness
    assert (level.start_s, len(level.level_db_T)) == (10.0, 300)


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4"])
def test_a_file_whose_clock_starts_days_late_is_no_long_file(name, tmp_path):
    path = write_video(tmp_path / name, Recipe(start_ms=86_400_000, sound=False))
    sampled, pictures = sample(path, [0.0, 1.0, 2.0])
    assert [read_number(picture) for picture in pictures] == [0, 25, 50]
    assert sampled.meta.duration_s == pytest.approx(2.4, abs=0.1) and sampled.meta.notes == ""


def spoil(start: int, end: int, keep: float = 0.0) -> Callable[[list], None]:
    """Noise instead of packets, or of their last parts."""

    def change(packets: list) -> None:
        noise = np.random.default_rng(0)
        for packet in packets[start:end]:
            kept = bytes(packet)[: int(keep * packet.size)]
            packet.update(kept + noise.integers(0, 256, packet.size - len(kept), dtype=np.uint8).tobytes())

    return change


def test_damaged_pictures_are_counted(tmp_path):
    """The last third can't be decoded: its last good picture stands for it, and that is said."""
    path = remux(x264(**IDR), spoil(40, 60))(tmp_path / "spoiled.mp4")
    sampled, pictures = sample(path, [0.0, 1.0, 1.4, 1.8, 2.2])
    assert [read_number(picture) for picture in pictures] == [0, 25, 35, 39, 39]
    assert sampled.meta.notes == "damaged pictures: 2 of 5"


def test_damage_spreads_to_the_next_keyframe(tmp_path):
    """Half of a keyframe that nobody asked for is noise: what is made from it is wrong as well, and said to be."""
    path = remux(x264(bframes="0", keyint="12", scenecut="0"), spoil(24, 25, keep=0.5))(tmp_path / "key.mp4")
    sampled, pictures = sample(path, [0.8, 1.04, 1.2, 1.44, 2.0], "pyav")
    right = [read_number(picture) == number for picture, number in zip(pictures, (20, 26, 30, 36, 50), strict=True)]
    assert right[0] and not right[1] and right[3:] == [True, True]
    assert sampled.meta.notes == "damaged pictures: 2 of 5"


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_a_broken_packet_shifts_no_picture_of_an_avi(codec, tmp_path):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    whole = partial(write_pictures, pictures=numbered(), codec=codec, pixels=pixels, g="12")
    path = remux(whole, spoil(20, 21))(tmp_path / "broken.avi")
    _, pictures = sample(path, [0.4, 0.6, 1.2, 2.0])
    assert [read_number(picture) for picture in pictures] == [10, 15, 30, 50]


@pytest.mark.parametrize("ending", ["ts", "mpg"])
def test_a_clock_that_starts_anew_is_told(ending, tmp_path):
    part = write_pictures(tmp_path / f"part.{ending}", numbered(50), "mpeg2video", g="12")
    path = tmp_path / f"joined.{ending}"
    path.write_bytes(part.read_bytes() * 2)
    with pytest.raises(StepError, match=r"its clock goes from .* back to .*; convert it to MP4") as caught:
        sample(path, [0.0])
    assert caught.value.reason == "odd_times"


def test_pictures_without_times_are_told(tmp_path):
    path = write_pictures(tmp_path / "h264.mpg", numbered(), g="12")
    with pytest.raises(StepError, match="57 of its pictures have no time") as caught:
        sample(path, [0.0])
    assert caught.value.reason == "odd_times"


def test_a_transport_stream_is_not_read_from_its_start_for_every_picture(tmp_path, monkeypatch):
    path = write_pictures(tmp_path / "long.ts", numbered(300), g="25", bf="2")
    index, decoded = index_video(str(path)), []
    real = pyav_decoder.pictures
    monkeypatch.setattr(pyav_decoder, "pictures", lambda *given: (decoded.append(1) or one for one in real(*given)))
    wanted = range(12, 300, 25)
    seen = [read_number(one.rgb) for one in pyav_decoder.read_pictures(index, wanted, index.display.size, 10**6)]
    assert seen == [number % 256 for number in wanted]
    assert len(decoded) < 300


def test_sound_without_packets_is_silence(tmp_path):
    path = tmp_path / "mute.mkv"
    whole = write_video(tmp_path / "whole.mkv", Recipe())
    with av.open(str(whole)) as reader, av.open(str(path), "w") as writer:
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux(reader.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copies[packet.stream_index]
                writer.mux(packet)
    assert set(loudness(str(path), 2.4).level_db_T) == {-100.0}


# --- the files that failed, where they are at hand -------------------------------------------------------------------

CASES = Path(__file__).parents[2] / "shared" / "cases" / "media"
RIGHT = {
    "intra_refresh.mp4": [0, 25, 50, 75, 100, 125, 150, 175],
    "intra_refresh.mkv": [0, 25, 50, 75, 100, 125, 150, 175],
    "two_video_streams.mp4": [0, 25, 50, 75],
    "b_frames_mpeg4.avi": [0, 25, 50, 75, 100],
    "b_frames_h264.avi": [0, 25, 50, 75, 100],
    "cut_by_copy.mp4": [125, 125, 125, 150, 175],
    "pictures_late.mp4": [0, 20, 45, 70],
}


def bars(picture: np.ndarray) -> int:
    """The number of a case's picture: 10 bits as bars in its upper half."""
    height, width = picture.shape[:2]
    strip = picture[int(0.15 * height) : int(0.35 * height)].mean(axis=(0, 2))
    return sum(int(strip[int((bit + 0.5) * width / 10)] > 128) << bit for bit in range(10))


@pytest.mark.skipif(not CASES.exists(), reason="the files are not at hand")
@pytest.mark.parametrize("name", RIGHT)
def test_files_that_failed(name):
    _, pictures = sample(CASES / name, [float(second) for second in range(len(RIGHT[name]))])
    assert [bars(picture) for picture in pictures] == RIGHT[name]
