"""What the tasks of R-AVST (arXiv 2511.16901) have in common: objects with an interval, with boxes, or with both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.config.video_llm import PromptConfig
from ravst_ray.core.answers import MALFORMATIONS, ParsedAnswer, parse, render
from ravst_ray.core.intervals import Interval
from ravst_ray.core.names import NameMatcher
from ravst_ray.records import QAPair, VideoView
from ravst_ray.rewards import paper_compat
from ravst_ray.rewards.format import format_score
from ravst_ray.rewards.objects import object_score
from ravst_ray.rewards.spatial import SpatialMatch, match_boxes, spatial_score
from ravst_ray.rewards.temporal import temporal_score
from ravst_ray.tasks import avst_trivial
from ravst_ray.tasks.protocols import Case, Drawing, Exam, Task
from ravst_ray.tasks.spaces import boxes_are

RECALL_AT = (0.3, 0.5, 0.7)
PRECISION_AT = (0.3, 0.5)
_AT_LEAST = 1e-9  # an IoU that is k but for rounding is k

TEMPORAL = ("m_tIoU", *(f"R1@{k}" for k in RECALL_AT))
OBJECTS = ("obj_acc", "obj_precision", "obj_recall")
SPATIAL = (
    "m_vIoU",
    *(f"AP@{k}" for k in PRECISION_AT),
    "m_vIoU_union",
    *(f"vIoU@{k}" for k in PRECISION_AT),
)
NO_BOX = ("m_vIoU", "n_no_box", "without any true box are left out of the spatial metrics")

_ASKED = re.compile(r"between\s+([\d.]{1,20})\s+and\s+([\d.]{1,20}),")


class AVST(Task[ParsedAnswer]):
    """Answers in the grammar of :mod:`ravst_ray.core.answers`.

    m_tIoU and R1@k are those of moment retrieval; m_vIoU averages over the true seconds, and AP@k is the share of true
    seconds with IoU >= k, both as V-STaR defines them (arXiv 2503.11495); ``vIoU_union`` divides by the union of
    seconds as VidSTG does (arXiv 2001.06891).

    Args:
        name, title, json_key: as :class:`Task` has them.
        when, where: whether every object of an answer has an interval, and boxes.
        weights: of ``object``, ``temporal`` and ``spatial``; ``format`` weighs 1.
        headline, published: as :class:`Task` has them.
    """

    malformations = MALFORMATIONS

    def __init__(
        self,
        name: str,
        title: str,
        json_key: str,
        when: bool,
        where: bool,
        weights: Mapping[str, float],
        headline: tuple[str, ...],
        published: Mapping[str, Mapping[str, float]],
    ):
        self.name, self.title, self.json_key = name, title, json_key
        self.when, self.where = when, where
        self.weights = {"format": 1.0, "object": 0.0, "temporal": 0.0, "spatial": 0.0, **weights}
        self.metrics = (*(TEMPORAL if when else ()), *((*OBJECTS, *SPATIAL) if where else ()))
        self.headline, self.published = headline, published
        self.trivial = avst_trivial.names(when, where)
        self.uncounted = NO_BOX if where else None

    def form(self, view: VideoView, config: PromptConfig) -> list[str]:
        """The tags of the answer, and what stands in them."""
        lines = [
            ("Think first, inside <think></think>, then answer" if config.think else "Answer")
            + " in exactly this form:",
            "<answer>",
            "<object>name</object>",
        ]
        if self.when:
            lines.append("<when>[start, end]</when>")
        if self.where:
            lines += ["<where>", "second: [x1, y1, x2, y2]", "</where>"]
        lines.append("</answer>")
        if self.when:
            lines.append("start and end are seconds of the video.")
        if self.where:
            lines.append(f"{boxes_are(view, config)}: one line every {config.box_step_s:g} s in which it is visible.")
            lines.append("Give every object its own <object> and parts.")
        return lines

    def parse(self, text: str) -> ParsedAnswer:
        """As :func:`ravst_ray.core.answers.parse`."""
        return parse(text)

    def render(self, answer: ParsedAnswer) -> str:
        """As :func:`ravst_ray.core.answers.render`."""
        return render(answer.objects)

    def nothing(self) -> ParsedAnswer:
        """No object, and nothing malformed."""
        return ParsedAnswer(())

    def parts(self, case: Case[ParsedAnswer]) -> dict[str, float]:
        """Format, object, temporal and spatial score; those that the task doesn't ask for weigh 0."""
        match = match_boxes(case.true.objects, case.predicted.objects, case.names, case.config.snap_s)
        return {
            "format": format_score(case.predicted, self.when, self.where),
            "object": object_score(case.true, case.predicted, match.pairs),
            "temporal": temporal_score(case.true, case.predicted),
            "spatial": spatial_score(match, case.config.spatial_domain),
        }

    def measure(
        self, true: ParsedAnswer, predicted: ParsedAnswer, names: NameMatcher, config: RewardConfig
    ) -> dict[str, float]:
        """Of the interval, the objects and the boxes; spatial ones are missing where the truth has no box."""
        values: dict[str, float] = {}
        if self.when:
            tiou = temporal_score(true, predicted)
            values["m_tIoU"] = tiou
            values.update({f"R1@{k}": float(tiou >= k - _AT_LEAST) for k in RECALL_AT})
        if self.where:
            match = match_boxes(true.objects, predicted.objects, names, config.snap_s)
            values["obj_acc"] = object_score(true, predicted, match.pairs)
            values["obj_precision"] = len(match.pairs) / len(predicted.objects) if predicted.objects else 0.0
            values["obj_recall"] = len(match.pairs) / len(true.objects) if true.objects else 0.0
            values.update(_spatial(match))
        return values

    def trivial_answers(self, exam: Exam) -> dict[str, dict[str, ParsedAnswer]]:
        """See :mod:`ravst_ray.tasks.avst_trivial`."""
        own = [pair for pair in exam.pairs if isinstance(exam.truths[pair.qa_id], ParsedAnswer)]
        asked = {
            pair.qa_id: asked_interval(pair, ParsedAnswer(())) or (0.0, exam.durations_s[pair.video_id])
            for pair in own
            if pair.task == self.name
        }
        return avst_trivial.answers(replace(exam, pairs=own), asked, self.when, self.where)

    def groups(self, pair: QAPair, true: ParsedAnswer) -> dict[str, str]:
        """By the number of objects."""
        return {**super().groups(pair, true), "objects": str(len(true.objects)) if len(true.objects) < 4 else "4+"}

    def interval(self, pair: QAPair, true: ParsedAnswer) -> Interval | None:
        """As :func:`asked_interval`."""
        return asked_interval(pair, true)

    def drawing(self, answer: ParsedAnswer) -> Drawing:
        """Intervals and boxes by object."""
        intervals = [(one.name, one.when) for one in answer.objects if one.when is not None]
        tracks = [(one.name, one.where or ()) for one in answer.objects]
        return Drawing(tuple(intervals), tuple(tracks), names=tuple(one.name for one in answer.objects))

    def published_parts(
        self, completion: str, truth: str, names: NameMatcher
    ) -> tuple[dict[str, float], dict[str, int]]:
        """As :mod:`ravst_ray.rewards.paper_compat`, which raises at broken escapes: these earn 0 here."""
        form = paper_compat.format_score(completion)
        try:
            rest = paper_compat.spatial_temporal_score(completion, truth, self.when, self.where, names)
        except UnicodeDecodeError:
            return {"format": form, "spatial_temporal": 0.0}, {"bad_escape": 1}
        return {"format": form, "spatial_temporal": rest}, {}


def asked_interval(pair: QAPair, true: ParsedAnswer) -> Interval | None:
    """The interval a question is about: the one it asks within, else the true ``<when>``."""
    found = _ASKED.search(pair.question)
    if found:
        try:
            return float(found.group(1)), float(found.group(2))
        except ValueError:
            return None
    return next((one.when for one in true.objects if one.when is not None), None)


def _spatial(match: SpatialMatch) -> dict[str, float]:
    """Nothing where the truth has no box."""
    true_seconds = len(match.both) + match.true_only
    if not true_seconds:
        return {}
    union = true_seconds + match.predicted_only
    viou = sum(match.both) / true_seconds
    values = {"m_vIoU": viou, "m_vIoU_union": sum(match.both) / union}
    values.update({f"AP@{k}": sum(s >= k - _AT_LEAST for s in match.both) / true_seconds for k in PRECISION_AT})
    values.update({f"vIoU@{k}": float(viou >= k - _AT_LEAST) for k in PRECISION_AT})
    return values
