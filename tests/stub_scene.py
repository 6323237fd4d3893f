"""Scenes whose truth is known, with a detector and a segmenter that answer from it.

Objects are rectangles. A frame's red and green hold its number, so that the stubs know which frame they look at; its
blue holds a pattern of its shot (dark, bright, dark …).
"""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ravst_ray.core.geometry import box_iou
from ravst_ray.grounding.protocols import Candidate, Detection, ObjectMask
from ravst_ray.records import Box, Event, EventAnnotation, Frames, SceneObject, Video, VideoItem, VideoMeta

WIDTH, HEIGHT = 160, 120


@dataclass(frozen=True)
class Thing:
    """An object: its name and where it is at each frame (None: not to be seen)."""

    name: str
    where: Callable[[int], Box | None]


@dataclass
class Scene:
    """What happens, and how the stubs fail.

    ``missed`` holds (thing index, frame) that the detector overlooks, ``called`` gives a wrong name to (thing, frame),
    of things in ``stuck`` the segmenter's mask stays where it was last prompted. ``score`` is how sure it is.
    """

    things: Sequence[Thing]
    missed: set[tuple[int, int]] = field(default_factory=set)
    called: dict[tuple[int, int], str] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)
    score: float = 0.9

    def detector(self) -> StubDetector:
        return StubDetector(self)

    def segmenter(self) -> StubSegmenter:
        return StubSegmenter(self)


def straight(x: float, y: float, dx: float, dy: float = 0.0, size: int = 20) -> Callable[[int], Box]:
    """A square that moves by (dx, dy) a frame."""
    return lambda t: (x + dx * t, y + dy * t, x + dx * t + size, y + dy * t + size)


def away(path: Callable[[int], Box | None], first: int, last: int) -> Callable[[int], Box | None]:
    """The same, but not to be seen from frame ``first`` to ``last``."""
    return lambda t: None if first <= t <= last else path(t)


def rectangle(box: Box | None) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    if box is not None:
        x1, y1, x2, y2 = (round(v) for v in box)
        mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    return mask


def frame_number(frame: np.ndarray) -> int:
    red, green = (round(float(np.median(frame[..., channel])) / 8) for channel in (0, 1))
    return red + 32 * green


def make_item(
    names: Sequence[str],
    count: int,
    meta_size: tuple[int, int] = (WIDTH, HEIGHT),
    cuts: Sequence[int] = (),
    paint: Sequence[tuple[range, Box, tuple[int, int, int]]] = (),
    step_s: float = 1.0,
) -> VideoItem:
    """A video of ``count`` frames, ``step_s`` apart from 0.4 s on, with one event that covers all of them.

    A new shot begins at each frame of ``cuts``; ``paint`` colours boxes in ranges of frames.
    """
    jpegs = []
    for number in range(count):
        picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        picture[..., 0], picture[..., 1] = number % 32 * 8, number // 32 * 8
        shot = sum(cut <= number for cut in cuts)
        blocks = np.random.default_rng(shot).integers(0, 128, (HEIGHT // 5, WIDTH // 5)) + 128 * (shot % 2)
        picture[..., 2] = np.kron(blocks, np.ones((5, 5), dtype=np.int64))
        for when, (x1, y1, x2, y2), colour in paint:
            if number in when:
                picture[round(y1) : round(y2), round(x1) : round(x2)] = colour
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=0)
        jpegs.append(file.getvalue())
    times_s = tuple(round(0.4 + number * step_s, 3) for number in range(count))
    event = Event(1, 0.4, times_s[-1], "sound")
    objects = tuple(SceneObject(name, audible=index == 0) for index, name in enumerate(names))
    return VideoItem(
        Video("v", "v.mp4", times_s[-1] + 0.6, (event,)),
        meta=VideoMeta(times_s[-1] + 0.6, 10.0, *meta_size, has_audio=True, decoder="none"),
        frames=Frames(times_s, WIDTH, HEIGHT, tuple(jpegs)),
        annotations=(EventAnnotation(event, objects, times_s),),
    )


class StubDetector:
    """Finds every visible thing of a name that is asked for; ``most_alive`` counts the frames held at once."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self.seen: list[weakref.ref] = []
        self.looked_at: list[int] = []

    @property
    def alive(self) -> int:
        return sum(ref() is not None for ref in self.seen)

    def detect(self, frames_T: Sequence[np.ndarray], names: Sequence[str]) -> list[list[Detection]]:
        self.seen += [weakref.ref(frame) for frame in frames_T]
        self.looked_at += [frame_number(frame) for frame in frames_T]
        return [self._detect(frame_number(frame), names) for frame in frames_T]

    def _detect(self, number: int, names: Sequence[str]) -> list[Detection]:
        found = []
        for index, thing in enumerate(self.scene.things):
            box = thing.where(number)
            name = self.scene.called.get((index, number), thing.name)
            if box is not None and name in names and (index, number) not in self.scene.missed:
                found.append(Detection(list(names).index(name), box, 0.8 - 0.01 * index))
        return found


class StubSegmenter:
    """Masks are the true rectangles; ``on_advance`` is called at every frame."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self.on_advance: Callable[[], None] = lambda: None
        self.followed: list[int] = []
        self.segmented: list[int] = []

    def memory(self) -> StubMemory:
        return StubMemory(self)


class StubMemory:
    def __init__(self, owner: StubSegmenter):
        self.owner, self.scene = owner, owner.scene
        self.states: dict[int, tuple[int, Box]] = {}
        self.number = -1

    def advance(self, frame: np.ndarray) -> dict[int, ObjectMask]:
        self.owner.on_advance()
        self.number = frame_number(frame)
        self.owner.followed.append(len(self.states))
        return {object_id: self._look(*state) for object_id, state in self.states.items()}

    def _look(self, thing: int, prompted: Box) -> ObjectMask:
        box = prompted if thing in self.scene.stuck else self.scene.things[thing].where(self.number)
        return ObjectMask(rectangle(box), self.scene.score if box is not None else 0.1)

    def segment(self, boxes_N: Sequence[Box]) -> list[Candidate]:
        self.owner.segmented.append(len(boxes_N))
        return [Candidate(ObjectMask(rectangle(box), 0.9), (self._thing_at(box), box)) for box in boxes_N]

    def _thing_at(self, box: Box) -> int:
        places = [thing.where(self.number) for thing in self.scene.things]
        return max(range(len(places)), key=lambda i: box_iou(places[i], box) if places[i] is not None else -1.0)

    def adopt(self, object_id: int, candidate: Candidate) -> None:
        self.states[object_id] = candidate.state

    def forget(self, object_id: int) -> None:
        del self.states[object_id]
