"""Hard toy scenes through the tiny checkpoints with true names: boxes, identities, questions that truth contradicts.

    python -m tests.benchmarks.bench_hard [--videos 27] [--seed 1] [--world DIR] [key=value ...]

Without Ray and without a language model: each step is called as the pipeline calls it. Settings are those of
``annotate_laptop.yaml``, and those given as ``key=value`` (``grounding.track_step_s=0.5``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ravst_ray.annotate.decode import DecodeFrames
from ravst_ray.annotate.filter import filter_videos
from ravst_ray.annotate.grounding import build_ground
from ravst_ray.annotate.quality import CheckQuality
from ravst_ray.annotate.questions import MakeQuestions
from ravst_ray.annotate.texts import known_item
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.base import load_config
from ravst_ray.datasets.unav import read_unav
from ravst_ray.records import STATUSES, EventAnnotation, QAPair, VideoItem
from ravst_ray.toyworld.accuracy import name_objects
from ravst_ray.toyworld.checkpoints import DETECTOR, SEGMENTER
from ravst_ray.toyworld.evaluate import BoxScore, score_tracks
from ravst_ray.toyworld.hard import TRAITS
from ravst_ray.toyworld.identity import IdentityScore, score_identity
from ravst_ray.toyworld.world import write_world
from ravst_ray.toyworld.wrong import WrongCount, count_wrong

LAPTOP = Path(__file__).parents[2] / "jobs" / "configs" / "annotate_laptop.yaml"


@dataclass(frozen=True)
class Measured:
    """What came out of some videos."""

    boxes: BoxScore
    identity: IdentityScore
    questions: WrongCount


def annotated(world: Path, settings: Sequence[str] = ()) -> list[VideoItem]:
    """The videos of a toy world after all steps, with the true names given."""
    config = hard_config(world, settings)
    videos = read_unav(config.input.annotations, config.input.videos).videos
    kept = filter_videos(videos, config.filter, config.seed).videos
    items = [item for video in kept if (item := known_item(video, write_captions=False))]
    most = config.grounding.max_instances
    for step in (
        DecodeFrames(config.decode, track_step_s=config.grounding.track_step_s),
        build_ground(config.grounding),
        CheckQuality(config.quality, most),
        MakeQuestions(config.questions, most, config.seed),
    ):
        items = step(items)
    return [replace(item, frames=None) for item in items]


def hard_config(world: Path, settings: Sequence[str] = ()) -> AnnotateConfig:
    """The laptop's configuration for this world."""
    places = {
        "input.annotations": name_objects(world),
        "input.videos": world / "videos",
        "output": world / "dataset",
        "grounding.detector": DETECTOR,
        "grounding.segmenter": SEGMENTER,
    }
    return load_config(AnnotateConfig, LAPTOP, [*(f"{key}={value}" for key, value in places.items()), *settings])


def measure(truth: Mapping[str, Any], items: Sequence[VideoItem], config: AnnotateConfig) -> Measured:
    """Hold the videos that ``truth`` knows against it."""
    annotations: dict[str, Sequence[EventAnnotation]] = {item.video.video_id: item.annotations for item in items}
    pairs: list[QAPair] = [pair for item in items for pair in item.qa]
    return Measured(
        score_tracks(truth, annotations).overall,
        score_identity(truth, annotations),
        count_wrong(truth, pairs, config.questions.when),
    )


def by_trait(truth: Mapping[str, Any], items: Sequence[VideoItem], config: AnnotateConfig) -> dict[str, Measured]:
    """All videos, and those with each trait."""
    groups = {"all": truth}
    for trait in TRAITS:
        groups[trait] = {key: video for key, video in truth.items() if trait in video["traits"]}
    return {name: measure(group, items, config) for name, group in groups.items() if group}


def box_table(found: Mapping[str, Measured], videos: Mapping[str, int]) -> Table:
    """Boxes and identities, a row a trait."""
    table = Table(
        "trait", "videos", "recall", "precision", "mean IoU", "tracks", "id switches", "split", title="Tracks"
    )
    for name, one in found.items():
        boxes, identity = one.boxes, one.identity
        shares = [f"{value:.3f}" for value in (boxes.recall, boxes.precision, boxes.mean_iou)]
        counts = [str(value) for value in (identity.tracks, identity.switches, identity.split)]
        table.add_row(name, str(videos[name]), *shares, *counts)
    return table


def question_table(found: Mapping[str, Measured]) -> Table:
    """Right + wrong questions by status, a row a trait; sources off screen apart."""
    table = Table(
        "trait", *(f"{status}\nright + wrong" for status in STATUSES), "good ones\nkept", "off screen,\naccepted"
    )
    table.title = "Questions held against the truth"
    for name, one in found.items():
        count = one.questions
        cells = [f"{count.in_view[status].right} + {count.in_view[status].wrong}" for status in STATUSES]
        apart = count.off_screen["accepted"]
        table.add_row(name, *cells, f"{count.kept_share:.3f}", f"{apart.right} + {apart.wrong}")
    return table


def reason_table(count: WrongCount) -> Table:
    """Why questions are wrong, by status."""
    table = Table("reason", *STATUSES, title="Wrong for which reason (a question may have several)")
    for reason in sorted({reason for one in count.in_view.values() for reason in one.reasons}):
        table.add_row(reason, *(str(count.in_view[status].reasons[reason]) for status in STATUSES))
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=27)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--world", type=Path, help="written before by ravst toyworld --hard; else a new one is written")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    args = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        world = args.world or write_world(Path(folder) / "world", args.videos, args.seed, hard=True)
        truth = json.loads((world / "truth.json").read_text())
        config = hard_config(world, args.settings)
        found = by_trait(truth, annotated(world, args.settings), config)
    videos = {trait: sum(trait in video["traits"] for video in truth.values()) for trait in TRAITS}
    console.print(box_table(found, {"all": len(truth), **videos}))
    console.print(question_table(found))
    console.print(reason_table(found["all"].questions))


if __name__ == "__main__":
    main()
