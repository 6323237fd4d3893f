"""Video-STR (arXiv 2510.10976): questions about space and time, answered behind a graph of where things are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.config.video_llm import PromptConfig
from ravst_ray.core.graph_replies import MALFORMATIONS, Reply, parse_reply, render_reply, rewrite_value
from ravst_ray.core.graphs import Graph, parse_graph
from ravst_ray.core.names import NameMatcher
from ravst_ray.core.values import MOST, Value, read_value, render_value
from ravst_ray.records import Box, VideoView
from ravst_ray.rewards.answer import answer_score
from ravst_ray.rewards.edge import edge_score
from ravst_ray.rewards.gating import gated
from ravst_ray.rewards.graph_match import match_graphs
from ravst_ray.rewards.length import length_score
from ravst_ray.rewards.node import node_score
from ravst_ray.rewards.reply_format import reply_format_score
from ravst_ray.tasks.avst_trivial import common_frame
from ravst_ray.tasks.protocols import Case, Drawing, Exam, Task
from ravst_ray.tasks.spaces import AnswerSpace, boxes_are

TRIVIAL = "the commonest letter, the median number, the centre box, the whole video"

MOST_NODES = 256
"""Of a true graph, in all its frames: each is compared with each that a model may have said."""

_BY_FORM = {"choice": "accuracy", "number": "MRA", "box": "m_IoU", "interval": "m_tIoU"}
_ENDS = {
    "choice": "Answer with the letter.",
    "number": "Answer with a number{unit}.",
    "box": "Answer with a box [x1, y1, x2, y2].",
    "interval": "Answer with an interval [start, end] in seconds.",
}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GRAPH = (
    '<graph>{"frames":[{"t":second,"nodes":[{"id":"name.number","pos":[x,y]}],'
    '"edges":[{"s":"id","o":"id","dist":number,"angle":number}]}]}</graph>'
)


class VideoSTR(Task[Reply]):
    """Answers in the grammar of :mod:`ravst_ray.core.graph_replies`.

    R = answer + format + λ (node + edge) / 2 + length, with λ = 0.5; the weight of the length is that of SpaceR's and
    Video-R1's released code, the rest our definition, consistent with the published description. ``score`` is the
    answer's own: accuracy of choices, mean relative accuracy of numbers, IoU of boxes, tIoU of intervals, each of them
    also reported on its own.
    """

    name = "STR"
    title = "Video-STR · relations in space and time"
    weights: Mapping[str, float] = {"answer": 1.0, "format": 1.0, "node": 0.25, "edge": 0.25, "length": 0.2}
    metrics = ("score", *_BY_FORM.values(), "node", "edge", "format")
    headline = ("score", "node", "edge")
    malformations = MALFORMATIONS
    trivial = (TRIVIAL,)

    def form(self, view: VideoView, config: PromptConfig) -> list[str]:
        """How graph and answer are written. The model always thinks: that is where the graph is."""
        return [
            "Think first, inside <think></think>. Write there where the things in question are, as a graph:",
            _GRAPH,
            "pos is shares of the width and the height, from 0 to 1, from the top left; or [x,y,z] in metres, z up, "
            "if so asked. dist is from s to o, angle its direction in radians, left out in metres.",
            "Then answer: <answer>your answer</answer>",
            f"{boxes_are(view, config)}.",
        ]

    def parse(self, text: str) -> Reply:
        """As :func:`ravst_ray.core.graph_replies.parse_reply`."""
        return parse_reply(text)

    def render(self, answer: Reply) -> str:
        """As :func:`ravst_ray.core.graph_replies.render_reply`."""
        if answer.value is None or answer.graph is None:
            raise ValueError("an answer without a value or a graph can't be written")
        return render_reply(answer.value, answer.graph)

    def nothing(self) -> Reply:
        """No answer, no graph, and nothing malformed."""
        return Reply(None, None, False)

    def parts(self, case: Case[Reply]) -> dict[str, float]:
        """Answer, format, node and edge score after gating, and the length score of an answer that still counts."""
        rules, said = case.config.graph, case.predicted
        scores = {
            "answer": answer_score(_value(case.true), said.value),
            "format": reply_format_score(said),
            **_graph_scores(case.true, said, case.names, case.config),
        }
        parts = gated(scores, rules.gating, isinstance(case.true.value, str))
        low, high = rules.length
        return {**parts, "length": length_score(case.tokens, parts["answer"], low, high, rules.length_above)}

    def measure(self, true: Reply, predicted: Reply, names: NameMatcher, config: RewardConfig) -> dict[str, float]:
        """The answer's score, overall and under the name that it has for its form, and the graph's."""
        score = answer_score(_value(true), predicted.value)
        values = {"score": score, _BY_FORM[form_of(_value(true))]: score}
        return {**values, **_graph_scores(true, predicted, names, config), "format": reply_format_score(predicted)}

    def asked(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Of a row that ``ravst make-str`` has written: options, unit and the graph's seconds belong to the question.

        Raises:
            KeyError: a column is missing.
            ValueError: one can't be read.
        """
        value, (graph, malformed) = read_value(str(row["answer"])), parse_graph(str(row["graph"]))
        form = str(row["form"])
        if value is None or form != form_of(value):
            raise ValueError(f"the answer {row['answer']!r} is no {form}")
        if malformed:
            raise ValueError(f"the graph has {', '.join(malformed)}")
        if (nodes := sum(len(frame.nodes) for frame in graph.frames)) > MOST_NODES:
            raise ValueError(f"the graph has {nodes} nodes, {MOST_NODES} at most")
        unit = f" in {row['unit']}" if row.get("unit") else ""
        lines = [str(row["question"])]
        lines += [f"{letter}. {text}" for letter, text in zip(_LETTERS, row.get("options") or (), strict=False)]
        lines.append(_ENDS[form].format(unit=unit))
        lines.append(f"Graph of {_seconds(graph)}{', in metres' if row.get('space') == '3d' else ''}.")
        return "\n".join(lines), render_reply(value, graph)

    def to_model(self, answer: str, space: AnswerSpace) -> str:
        """With the box of the answer scaled, if it is one."""
        return rewrite_value(answer, lambda value: _changed(value, space.box_to_model, space.integer))

    def to_video(self, completion: str, space: AnswerSpace) -> str:
        """With the box of the answer in pixels of the video, if it is one; the graph is in shares already."""
        return rewrite_value(completion, lambda value: _changed(value, space.box_to_video, False))

    def trivial_answers(self, exam: Exam) -> dict[str, dict[str, Reply]]:
        """By kind of question the commonest letter or the median number; the middle half of the picture; all seconds.

        They have no graph. The picture is taken to be the smallest common one that holds all true boxes of its video.
        """
        own = [pair for pair in exam.pairs if pair.task == self.name]
        values = {pair.qa_id: _value(exam.truths[pair.qa_id]) for pair in own}
        by_kind: defaultdict[str, list[Value]] = defaultdict(list)
        extent: defaultdict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for pair in own:
            value = values[pair.qa_id]
            by_kind[pair.kind].append(value)
            if isinstance(value, tuple) and len(value) == 4:
                width, height = extent[pair.video_id]
                extent[pair.video_id] = (max(width, value[2]), max(height, value[3]))
        found: dict[str, Reply] = {}
        for pair in own:
            same, form = by_kind[pair.kind], form_of(values[pair.qa_id])
            value = _trivial(form, same, common_frame(*extent[pair.video_id]), exam.durations_s[pair.video_id])
            found[pair.qa_id] = Reply(value, None, False)
        return {TRIVIAL: found}

    def drawing(self, answer: Reply) -> Drawing:
        """The graph, in the picture or on the floor; an interval; a box; what else is said in short."""
        frames = answer.graph.frames if answer.graph else ()
        if any(len(node.pos) == 3 for frame in frames for node in frame.nodes):
            return replace(_drawn(answer.value), floor=answer.graph)
        graphs = {
            frame.time_s: tuple((node.label, (node.pos[0], node.pos[1])) for node in frame.nodes) for frame in frames
        }
        return replace(_drawn(answer.value), graphs=graphs)


def form_of(value: Value) -> str:
    """What an answer is: ``choice``, ``number``, ``box`` or ``interval``."""
    if isinstance(value, str):
        return "choice"
    if isinstance(value, tuple):
        return "box" if len(value) == 4 else "interval"
    return "number"


def _graph_scores(true: Reply, said: Reply, names: NameMatcher, config: RewardConfig) -> dict[str, float]:
    match = match_graphs(true.graph or Graph(()), said.graph, names)
    rules = config.graph
    return {
        "node": node_score(match, rules.mode),
        "edge": edge_score(match, rules.angles, rules.scale_free, rules.mode),
    }


def _value(true: Reply) -> Value:
    """Of a true answer, which has one."""
    if true.value is None:
        raise ValueError("a true answer without a value")
    return true.value


def _trivial(form: str, same: Sequence[Value], size: tuple[float, float], end_s: float) -> Value:
    if form == "choice":
        counted = Counter(sorted(value for value in same if isinstance(value, str)))
        return counted.most_common(1)[0][0]
    if form == "number":
        return float(median(value for value in same if isinstance(value, float)))
    if form == "box":
        width, height = size
        return (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
    return (0.0, end_s)


def _seconds(graph: Graph) -> str:
    times = [f"{frame.time_s:g}" for frame in graph.frames]
    if len(times) == 1:
        return f"second {times[0]}"
    return f"the seconds {', '.join(times[:-1])} and {times[-1]}"


def _changed(value: Value, change: Callable[[Box], Box], integer: bool) -> str | None:
    """The text of a box in another space; None for what is no box."""
    if not isinstance(value, tuple) or len(value) != 4:
        return None
    box = tuple(min(max(number, -MOST), MOST) for number in change(_box(value)))
    return str([int(number) for number in box]) if integer else render_value(box)


def _drawn(value: Value | None) -> Drawing:
    if not isinstance(value, tuple):
        return Drawing(value=None if value is None else render_value(value))
    return Drawing(box=_box(value)) if len(value) == 4 else Drawing(intervals=(("answer", (value[0], value[1])),))


def _box(value: tuple[float, ...]) -> Box:
    x1, y1, x2, y2 = value
    return (x1, y1, x2, y2)


VIDEO_STR = VideoSTR()
