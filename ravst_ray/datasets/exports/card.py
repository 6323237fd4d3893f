"""The dataset card that lies beside an export: ``README.md``."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ravst_ray.datasets.exports.protocols import SPLITS, ExportedVideo, Row

_MOST_VALUES = 5  # of one entry of the provenance that are named
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_RULES = ("filter", "questions", "quality")


@dataclass(slots=True)
class Tally:
    """What is exported, by split, and what is left out, by status."""

    splits: dict[str, Counter[str]] = field(default_factory=lambda: {split: Counter() for split in SPLITS})
    left_out: dict[str, Counter[str]] = field(default_factory=lambda: {"events": Counter(), "questions": Counter()})
    made_with: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, video: ExportedVideo) -> None:
        """One video that is exported."""
        count = self.splits.setdefault(video.split, Counter())
        count["videos"] += 1
        count["files"] += bool(video.path)
        count["events"] += len(video.annotations)
        count["tracks"] += sum(len(row["tracks"]) for row in video.annotations)
        count["questions"] += len(video.qa)
        count.update(f"{row['task']} questions" for row in video.qa)
        for key, value in (pair for row in video.annotations for pair in row.get("provenance") or ()):
            if len(self.made_with[key]) <= _MOST_VALUES:
                self.made_with[key].update(value.split(", ") if key == "reviewed_by" else [value])

    def leave_out(self, kind: str, rows: Iterable[Row]) -> None:
        """Rows of another status; ``kind`` is events or questions."""
        self.left_out[kind].update(row["status"] for row in rows)

    @property
    def total(self) -> Counter[str]:
        """Of all splits."""
        return sum(self.splits.values(), Counter())

    def facts(self) -> dict[str, Any]:
        """For ``export.json``."""
        return {
            "splits": {split: dict(count) for split, count in self.splits.items()},
            "left_out": {kind: dict(count) for kind, count in self.left_out.items()},
        }


def dataset_card(
    tally: Tally,
    about: str,
    header: Mapping[str, Any],
    statuses: Collection[str],
    settings: Mapping[str, Any],
    review: Mapping[str, Any] | None,
) -> str:
    """What is in the dataset, how it was made and by which rules, and what its publisher must add.

    Args:
        tally: of what is exported.
        about: the files, and how they are read; Markdown.
        header: entries of the YAML header that the format wants.
        statuses: of the rows that are exported.
        settings: of the run that made the rows (``config.yaml``); may be empty.
        review: figures of a person's review, by name.
    """
    total = tally.total
    front = {
        "license": "other",
        "license_name": "to-fill-in",
        "license_link": "to-fill-in",
        "task_categories": ["visual-question-answering"],
        "size_categories": [next((name for limit, name in _SIZES if total["questions"] < limit), "n>1M")],
        **header,
    }
    columns = [name for name in dict.fromkeys((*sorted(total, key=_order),)) if name != "files"]
    counts = [(split, *(count[name] for name in columns)) for split, count in tally.splits.items()]
    left = [(status, *(tally.left_out[kind][status] for kind in tally.left_out)) for status in _left_statuses(tally)]
    rules = [(f"{name}.{key}", value) for name in _RULES for key, value in _section(settings, name)]
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---
# What makes a sound, when, and where in the picture

Objects of untrimmed videos, marked audible or silent, with box tracks, and questions about them with their answers.
Made by `ravst annotate` after the recipe of R-AVST (arXiv 2511.16901): videos are filtered, a language model names the
objects of each event, a detector finds them and a segmenter follows them, every event is checked by rule, and questions
are made from what is left. Exported by `ravst export`; only rows with the status {" or ".join(statuses)}.

## What is in it

{table(("split", *columns), counts)}

Train and test are split by a hash of seed and video id. Left out for their status:

{table(("status", *tally.left_out), left) if left else "Nothing."}

## Files

{about.strip()}

## Review

{table(("figure", "value"), review.items()) if review else "No person's verdicts are in this: a status is by rule."}

## Made with

{table(("what", "value"), ((key, _values(values)) for key, values in sorted(tally.made_with.items())))}

The rules, as they were set:

{table(("setting", "value"), rules) if rules else "Not known."}

## Licence

To fill in by whoever publishes this, in the header too:

- Licence of the annotations: …
- Source and licence of the videos: …
- Whether people who can be seen or heard have agreed: …
"""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; what cells hold is text and nothing else."""
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`|\[\]*])", r"\\\1", text)


def _order(name: str) -> tuple[int, str]:
    known = ("videos", "events", "tracks", "questions")
    return (known.index(name) if name in known else len(known), name)


def _left_statuses(tally: Tally) -> list[str]:
    return sorted({status for count in tally.left_out.values() for status in count})


def _section(settings: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    section = settings.get(name)
    return list(section.items()) if isinstance(section, dict) else []


def _values(values: set[str]) -> str:
    named = sorted(values)[:_MOST_VALUES]
    return ", ".join(named) + (", …" if len(values) > _MOST_VALUES else "")
