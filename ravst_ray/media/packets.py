"""Reading a file's packets without decoding them: when its pictures are shown, and where decoding can start."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from ravst_ray.errors import StepError

_NO_TIMES = ("avi",)  # it tells the order in which pictures are decoded, and nothing of when they are shown
_BACKWARDS_S = 1.0  # more than any reordering
_UNTIMED = 0.05  # a larger share of pictures without a time is no damage


@dataclass
class Packets:
    """What reading through a file's packets yields; times in units of the picture stream's time base."""

    shown: list[tuple[int, int, bool]]  # when, for how long, is a keyframe
    counted: bool = False
    clean: bool = True
    hidden: int = 0
    last_s: float = 0.0  # end of the last packet of any stream, in the container's time
    whole: bool = True


def read_packets(container: InputContainer, stream: VideoStream, until_s: float | None) -> Packets:
    """Read on to the end, or to the first keyframe after a time of the container."""
    found, keyframe, sync = Packets([]), None, _Sync(stream)
    counted = container.format.name in _NO_TIMES
    decoded: list[int] = []  # times of decoding, for a container that has no others
    latest_s: deque[float] = deque(maxlen=2)  # one wrong time alone is damage, no clock that starts anew
    untimed = 0
    for packet in container.demux():
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or packet.time_base is None:
            untimed += packet.stream_index == stream.index and packet.size > 0
            continue
        found.last_s = max(found.last_s, float((time + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index:
            continue
        if packet.dts is not None:
            now_s = float(packet.dts * packet.time_base)
            if len(latest_s) == 2 and now_s < min(latest_s) - _BACKWARDS_S:
                raise _odd_times(container, f"its clock goes from {latest_s[-1]:.1f} s back to {now_s:.1f} s")
            latest_s.append(now_s)
        if packet.is_keyframe:
            if until_s is not None and float(time * packet.time_base) > until_s:
                found.whole = False
                break
            keyframe = time
            found.clean &= sync.is_clean(packet)
        elif keyframe is None or time < keyframe:
            found.clean = False
        if packet.is_discard:
            found.hidden += 1
            continue
        counted |= packet.pts is None
        found.shown.append((time, packet.duration or 0, packet.is_keyframe))
        decoded.append(packet.dts if packet.dts is not None else time)
    if untimed > 1 + _UNTIMED * len(found.shown):
        raise _odd_times(container, f"{untimed} of its pictures have no time")
    if counted:
        found.shown = [(dts, length, key) for dts, (_, length, key) in zip(decoded, found.shown, strict=True)]
        found.counted = True
    found.shown.sort()
    return found


def _odd_times(container: InputContainer, what: str) -> StepError:
    name = Path(container.name).name
    return StepError("odd_times", f"{name}: no telling when its pictures are shown, {what}; convert it to MP4")


class _Sync:
    """Tells keyframes that stand for themselves (IDR pictures) from points at which recovery begins."""

    def __init__(self, stream: VideoStream):
        context = stream.codec_context
        self._codec, extra = context.name, bytes(context.extradata or b"")
        place = {"h264": 4, "hevc": 21}.get(self._codec, 0)
        self._length_size = (extra[place] & 3) + 1 if place and len(extra) > place and extra[0] == 1 else 0

    def is_clean(self, packet: Packet) -> bool:
        """Whether nothing before this keyframe is needed; of codecs other than H.264 and HEVC that isn't known: no."""
        if not self._length_size:
            return False
        content, place = bytes(packet), 0
        while place + self._length_size < len(content):
            kind = content[place + self._length_size]
            unit = kind & 31 if self._codec == "h264" else kind >> 1 & 63
            if unit in ((1, 2, 3, 4, 5) if self._codec == "h264" else range(32)):  # a slice: the units before are heads
                return unit == 5 if self._codec == "h264" else unit in (19, 20)
            place += self._length_size + int.from_bytes(content[place : place + self._length_size])
        return False
