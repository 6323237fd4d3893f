"""The best and the worst completions of a run: frames with true and predicted boxes or graphs, bars, both texts."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import pyarrow as pa
from PIL import Image

from ravst_ray.config.train import TrainConfig
from ravst_ray.core.answers import BoxLine
from ravst_ray.core.geometry import is_real_box
from ravst_ray.core.graphs import Graph
from ravst_ray.core.intervals import Interval
from ravst_ray.core.names import NameMatcher
from ravst_ray.datasets.places import REPORT_VIDEO_BYTES, local_copy
from ravst_ray.datasets.tasks import VideoTask, read_tasks
from ravst_ray.errors import ConfigError, RavstError
from ravst_ray.logs import get_logger
from ravst_ray.media.clips import show_video
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.media.protocols import Decoder
from ravst_ray.records import Box, QAPair, Track, VideoView
from ravst_ray.reports.figures import PALETTE, ticks
from ravst_ray.reports.graph_plan import Plan, floor_plans
from ravst_ray.reports.overlay import TrackBox, draw_frame, draw_graphs
from ravst_ray.reports.run_folder import Sampled, in_order, read_texts
from ravst_ray.reports.samples import IMAGE_SIDE_PX, SampleFrame, Span, data_uri, visible_spans
from ravst_ray.rewards.graph_match import NEAREST_S
from ravst_ray.rewards.spatial import real_seconds, snapped_seconds
from ravst_ray.rewards.word_vectors import name_matcher
from ravst_ray.tasks import TASKS, task_of, weights_of
from ravst_ray.tasks.protocols import Dots, Drawing
from ravst_ray.tasks.spaces import DATA_STEP_S, AnswerSpace

log = get_logger(__name__)
_SPECIAL = re.compile(r"<\|\w+\|>")

TRUE, SAID = PALETTE[1], PALETTE[0]
PICKED = 2
FRAMES = 4
_MAX_LANES, _MAX_BOXES = 6, 12
_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Lane:
    """One row of the timeline: an interval, or the seconds that have boxes. ``side`` is ``"true"`` or ``"said"``."""

    side: str
    name: str
    kind: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Part:
    """A part of the reward; ``weight`` is None where the run's settings aren't known."""

    name: str
    score: float
    weight: float | None


@dataclass(frozen=True)
class CompletionCard:
    """All that the template needs for one completion; ``problem`` says why there are no frames, or is None.

    ``truth`` and ``said`` are texts as the model should have written and did write them, ``in_video`` is ``said`` in
    pixels and seconds of the video, None where the video can't be read; ``address`` leads to it in ``ravst review``.
    """

    sampled: Sampled
    parts: tuple[Part, ...]
    question: str
    said: str
    truth: str | None = None
    frames: tuple[SampleFrame, ...] = ()
    plans: tuple[Plan, ...] = ()
    lanes: tuple[Lane, ...] = ()
    more_lanes: int = 0
    axis_s: float = 0.1
    problem: str | None = None
    in_video: str | None = None
    address: str | None = None

    @property
    def ticks(self) -> list[float]:
        """Round times for the timeline."""
        return ticks(self.axis_s)


def pick(completions: Iterable[Sampled]) -> dict[str, tuple[list[Sampled], list[Sampled]]]:
    """The ``PICKED`` best and worst completions by task, one a question; of equal ones the latest.

    Completions without a finite reward are passed over; none is both among the best and among the worst.
    """
    by_task: dict[str, list[Sampled]] = {}
    for one in completions:
        if math.isfinite(one.reward):
            by_task.setdefault(one.task, []).append(one)
    found = {}
    for task in in_order(by_task, list(TASKS)):
        ordered = sorted(by_task[task], key=lambda one: (-one.step, one.question_id, one.place))
        best = _first(sorted(ordered, key=lambda one: -one.reward))
        rest = [one for one in ordered if one not in best]
        found[task] = best, _first(sorted(rest, key=lambda one: one.reward))
    return found


def completion_cards(picked: Sequence[Sampled], config: TrainConfig | None) -> list[CompletionCard]:
    """Reads truth and videos and draws them; what can't be had is told in the card.

    Args:
        picked: the completions.
        config: of the run: where questions and videos are, and how videos were shown; None: it isn't known.
    """
    if not picked:
        return []
    questions, why = _questions(config)
    if config is None or why:
        return [replace(_bare(one, config, None), problem=why) for one in picked]
    short = config.decode.model_copy(update={"deadline_s": min(config.decode.deadline_s, _DEADLINE_S)})
    with closing(ChildDecoder(short)) as decoder:
        artist = _Artist(config, decoder)
        return [artist.card(one, questions.get(one.question_id)) for one in picked]


def task_weights(config: TrainConfig | None, task: str) -> dict[str, float]:
    """What each part of the reward weighs in a task; empty where that isn't known, or has no such parts."""
    if config is None or config.reward.profile != "ravst" or task not in TASKS:
        return {}
    return dict(weights_of(TASKS[task], config.reward))


def _first(ordered: Iterable[Sampled]) -> list[Sampled]:
    once: dict[str, Sampled] = {}
    for one in ordered:
        once.setdefault(one.question_id, one)
    return list(islice(once.values(), PICKED))


def _questions(config: TrainConfig | None) -> tuple[dict[str, tuple[QAPair, VideoTask]], str | None]:
    """Questions by id, and why there are none."""
    if config is None:
        return {}, "The run's settings can't be read, so neither the true answer nor the video is known."
    try:
        tasks = read_tasks(config.data.annotations, config.data.videos, config.data.limit)
    except ConfigError as error:
        return {}, f"Neither the true answer nor the video can be shown: {error}."
    return {pair.qa_id: (pair, task) for task in tasks for pair in task.questions}, None


def asked_in(prompt: str) -> str:
    r"""The question in a whole prompt: what a person says last, after what is shown.

    >>> asked_in("<|im_start|>user\n<|vision_end|>When?<|im_end|>\n<|im_start|>assistant\n")
    'When?'
    """
    return _SPECIAL.split(prompt.rpartition("<|im_end|>")[0])[-1].strip()


def _bare(sampled: Sampled, config: TrainConfig | None, pair: QAPair | None) -> CompletionCard:
    """The card without what the video is needed for."""
    try:
        prompt, said = read_texts(sampled)
    except (OSError, pa.ArrowException, IndexError):
        prompt, said = "", "(its text can't be read any more)"
    question = pair.question if pair else asked_in(prompt)
    weights = task_weights(config, sampled.task)
    parts = tuple(Part(name, score, weights.get(name)) for name, score in sampled.parts.items())
    return CompletionCard(sampled, parts, question, said, pair.answer if pair else None)


class _Artist:
    """Draws cards; remembers how each video was shown, or that it can't be."""

    def __init__(self, config: TrainConfig, decoder: Decoder):
        self._config, self._decoder = config, decoder
        self._views: dict[str, VideoView | RavstError] = {}
        self._names: NameMatcher | None = None

    def card(self, sampled: Sampled, known: tuple[QAPair, VideoTask] | None) -> CompletionCard:
        """One completion."""
        if known is None:
            problem = (
                "The question is no longer among those of data.annotations, so its truth and its video are unknown."
            )
            return replace(_bare(sampled, self._config, None), problem=problem)
        with self._at_hand(known[1]) as task:
            return self._of(sampled, known[0], task)

    def _of(self, sampled: Sampled, pair: QAPair, task: VideoTask) -> CompletionCard:
        bare = _bare(sampled, self._config, pair)
        view, kind = self._view(task), task_of(pair.task)
        true, said = kind.drawing(kind.parse(pair.answer)), kind.drawing(kind.parse(bare.said))
        if true.floor:
            bare = replace(bare, plans=self._plans(true.floor, said.floor))
        if isinstance(view, RavstError):
            # In which space the model answered depends on the video: intervals can be compared, boxes can't.
            axis_s = max(task.duration_s, 0.1)
            lanes, more = _lanes(true, said, axis_s)
            problem = f"The video can't be shown: {view}."
            return replace(bare, lanes=lanes, more_lanes=more, axis_s=axis_s, problem=problem)
        space = AnswerSpace.of(view, self._config.prompt)
        in_video = kind.to_video(bare.said, space)
        said = kind.drawing(kind.parse(in_video))
        axis_s = max(view.duration_s, 0.1)
        lanes, more = _lanes(true, said, axis_s)
        truth = kind.to_model(pair.answer, space)
        card = replace(bare, truth=truth, lanes=lanes, more_lanes=more, axis_s=axis_s, in_video=in_video)
        if card.plans:
            return card
        try:
            return replace(card, frames=self._frames(task, view, true, said))
        except RavstError as error:
            return replace(card, problem=f"The video can't be shown: {error}.")

    def _plans(self, true: Graph, said: Graph | None) -> tuple[Plan, ...]:
        try:
            self._names = self._names or name_matcher(self._config.reward.names)
            return floor_plans(true, said, self._names)
        except ConfigError:  # the word vectors are gone
            return floor_plans(true, said, NameMatcher())

    @contextmanager
    def _at_hand(self, task: VideoTask) -> Iterator[VideoTask]:
        """With a path of this machine; one that can't be fetched can't be shown."""
        with ExitStack() as copies:
            if not isinstance(self._views.get(task.video_id), RavstError):
                try:
                    task = replace(task, path=copies.enter_context(local_copy(task.path, REPORT_VIDEO_BYTES)))
                except RavstError as error:
                    self._leave_out(task, error)
            yield task

    def _leave_out(self, task: VideoTask, error: RavstError) -> None:
        log.warning("%s: not shown in the report: %s", task.video_id, error)
        self._views[task.video_id] = error

    def _view(self, task: VideoTask) -> VideoView | RavstError:
        if task.video_id not in self._views:
            try:
                shown = show_video(self._decoder, task.video_id, task.path, task.duration_s, self._config.frames)
                self._views[task.video_id] = shown[1]
            except RavstError as error:
                self._leave_out(task, error)
        return self._views[task.video_id]

    def _frames(self, task: VideoTask, view: VideoView, true: Drawing, said: Drawing) -> tuple[SampleFrame, ...]:
        snap_s = self._config.reward.snap_s
        wanted, given = _boxes_at(true, None, snap_s), _boxes_at(said, true, snap_s)
        end_s = min(view.duration_s, view.frames * view.step_s)
        spans = [span for drawing in (true, said) for _, span in drawing.intervals]
        graphs = _snapped(said.graphs, true.graphs)
        asked_s = min({*wanted, *true.graphs}, default=0.0)
        for boxes, box in ((wanted, true.box), (given, said.box)):
            if box and is_real_box(box):
                boxes.setdefault(asked_s, []).append(("answer", box))
        times = _times({**wanted, **true.graphs}, given, spans, end_s)
        decoded = self._decoder.decode(task.path, times).frames
        size = (view.video_width, view.video_height)
        return tuple(
            _drawn(
                jpeg,
                time_s,
                wanted.get(time_s, []),
                given.get(time_s, []),
                size,
                (true.graphs.get(time_s, ()), graphs.get(time_s, ())),
            )
            for time_s, jpeg in zip(decoded.times_s, decoded.jpegs, strict=True)
        )


_Named = tuple[str, Box]


def _boxes_at(answer: Drawing, true: Drawing | None, snap_s: float) -> dict[float, list[_Named]]:
    """Real boxes with their object's name by second; those of a completion at the true seconds, as they are scored."""
    grid = {time_s for _, lines in (true or answer).tracks for time_s, _ in lines}
    found: dict[float, list[_Named]] = {}
    for name, lines in answer.tracks:
        seconds = snapped_seconds(lines, grid, snap_s) if true else real_seconds(lines)
        for time_s, boxes in seconds.items():
            found.setdefault(time_s, []).extend((name, box) for box in boxes)
    return found


def _snapped(said: Mapping[float, Dots], true: Mapping[float, Dots]) -> dict[float, Dots]:
    """The predicted nodes at the true times, as they are scored: those of the nearest frame, if it is near."""
    found: dict[float, Dots] = {}
    for time_s in true:
        off_s, at_s = min(((abs(one - time_s), one) for one in said), default=(math.inf, 0.0))
        if off_s <= NEAREST_S + 1e-6:
            found[time_s] = said[at_s]
    return found


def _times(
    wanted: Mapping[float, object],
    given: Mapping[float, object],
    spans: Sequence[Interval],
    end_s: float,
) -> list[float]:
    """At most ``FRAMES`` seconds to look at: where there are boxes, else within the intervals, else anywhere."""
    inside = [time_s for time_s in sorted({*wanted, *given}) if 0 <= time_s < end_s]
    if not inside:
        grid = [round(number * 0.1, 1) for number in range(math.ceil(end_s * 10))] or [0.0]
        inside = [t for t in grid if any(start <= t <= end for start, end in spans)] or grid
    parts = min(FRAMES, len(inside))
    return [inside[int(len(inside) * (part + 0.5) / parts)] for part in range(parts)]


def _drawn(
    jpeg: bytes,
    time_s: float,
    wanted: Sequence[_Named],
    given: Sequence[_Named],
    size: tuple[int, int],
    dots: tuple[Dots, Dots],
) -> SampleFrame:
    image = Image.open(io.BytesIO(jpeg))
    scale = min(2.0, IMAGE_SIDE_PX / max(image.size))
    # Dashes on top leave a true box visible where a predicted one is the same.
    solid = [TrackBox(name, box, True, TRUE) for name, box in wanted[:_MAX_BOXES]]
    dashed = [TrackBox(name, box, False, SAID) for name, box in given[:_MAX_BOXES]]
    picture = draw_frame(draw_frame(image, solid, scale, size, labels=False), dashed, 1.0, size, labels=False)
    if any(dots):
        picture = draw_graphs(picture, [(dots[0][:_MAX_BOXES], TRUE, False), (dots[1][:_MAX_BOXES], SAID, True)])
    shown = zip((wanted, given), dots, strict=True)
    names = [", ".join(name for name, _ in [*boxes, *nodes]) or "no box" for boxes, nodes in shown]
    alt = f"Frame at {time_s:.1f} s; true: {names[0]}; predicted: {names[1]}"
    return SampleFrame(time_s, None, data_uri(picture), *picture.size, alt)


def _lanes(true: Drawing, said: Drawing, axis_s: float) -> tuple[tuple[Lane, ...], int]:
    """Intervals of both sides, then the seconds with boxes; at most ``_MAX_LANES`` of each side and kind.

    Returns:
        The lanes, and how many are left out.
    """
    lanes: list[Lane] = []
    more = 0
    for kind in ("interval", "boxes"):
        for side, answer in (("true", true), ("said", said)):
            if kind == "interval":
                named = [(name, [interval]) for name, interval in answer.intervals]
            else:
                named = [(name, _seen(lines, axis_s)) for name, lines in answer.tracks]
            made = [Lane(side, name, kind, _cut(spans, axis_s)) for name, spans in named]
            made = [lane for lane in made if lane.spans]
            lanes += made[:_MAX_LANES]
            more += max(len(made) - _MAX_LANES, 0)
    return tuple(lanes), more


def _seen(lines: Sequence[BoxLine], axis_s: float) -> list[Interval]:
    """The spans of time in which there are boxes."""
    times = tuple(sorted(real_seconds(lines)))
    return visible_spans(Track(0, "", True, times, (), ()), DATA_STEP_S, max((*times, axis_s)))


def _cut(found: Sequence[Interval], axis_s: float) -> tuple[Span, ...]:
    """The parts of spans that are on the axis."""
    spans = []
    for start_s, end_s in found:
        left, right = (min(max(time_s, 0.0), axis_s) for time_s in (start_s, end_s))
        spans.append(Span(start_s, end_s, 100 * left / axis_s, 100 * max(right - left, 0.0) / axis_s))
    return tuple(spans)
