"""The verdicts of an output applied to its rows, video by video, for whoever hands the dataset on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from ravst_ray.annotate.settings import read_config
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.review import ReviewConfig
from ravst_ray.datasets.places import insist
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.review.log import VerdictLog
from ravst_ray.review.revise import revise, revised_rows
from ravst_ray.review.service import Review

Row = dict[str, Any]


class Reviser:
    """Revises rows by what people have said of them. Only of videos with verdicts is more read than is given.

    Args:
        output: of ``ravst annotate``, at any place.

    Attributes:
        touched: the videos that verdicts in force are about.

    Raises:
        ConfigError: there are verdicts, and the run's settings can't be read.
        AbortError: the output can't be read.
    """

    def __init__(self, output: str):
        store = DatasetStore(output)
        self._log = insist(lambda: VerdictLog(store), output)
        self.touched = {video_id for (video_id, _), history in self._log.all().items() if history.in_force}
        self._run: AnnotateConfig | None = None
        self._videos: Mapping[str, Row] = {}
        if self.touched:
            self._run = read_config(output)
            rows = store.rows("videos")
            self._videos = {row["video_id"]: row for row in rows if row["video_id"] in self.touched}

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the log can't be read, a sentence each."""
        return self._log.problems

    def __call__(self, video_id: str, annotations: list[Row], qa: list[Row]) -> tuple[list[Row], list[Row]]:
        """All rows of a video as they are with its verdicts; the same rows where there are none."""
        if self._run is None or video_id not in self.touched:
            return annotations, qa
        histories = self._log.histories(video_id)
        annotations = sorted(annotations, key=lambda row: row["event_num"])
        revised = revise(annotations, qa, self._videos.get(video_id), histories, self._run)
        return revised_rows(annotations, qa, revised, histories)


def card_figures(output: str) -> dict[str, str]:
    """What a dataset's card tells of its review, by name; errors as of :class:`Reviser`."""
    with closing(Review(output, ReviewConfig(reviewer="nobody"))) as review:
        found = review.figures()
    told = {
        "events looked at by people": f"{found['reviewed']:,}",
        "… of which accepted, rejected": f"{found['accepted']:,}, {found['rejected']:,}",
        "… of which edited": f"{found['edited']:,}",
        "reviewers": f"{len(found['reviewers']):,}",
    }
    for pair in found["agreement"][:1]:
        kappa = "not defined" if pair["kappa"] is None else f"{pair['kappa']:.2f}"
        told["Cohen's kappa of the two who share most events"] = f"{kappa} ({pair['rows']:,} events)"
    rest = found["unreviewed"]
    if rest["looked_at"]:
        told["errors among accepted events that nobody looked at, estimated"] = (
            f"{rest['rate']:.1%} ({rest['confidence']:.0%} interval {rest['low']:.1%} to {rest['high']:.1%}, from "
            f"{rest['looked_at']:,} drawn at random)"
        )
    return told
