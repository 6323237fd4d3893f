"""By what the results are broken down: duration, event category, and what tasks and questions say of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ravst_ray.config.rewards import EvaluateConfig
from ravst_ray.core.intervals import Interval, interval_iou
from ravst_ray.errors import ConfigError
from ravst_ray.records import QAPair
from ravst_ray.tasks import task_of

Labels = dict[str, list[tuple[Interval, str]]]
GROUPINGS = ("duration", "objects", "category", "kind")


def question_groups(
    pair: QAPair, true: Any, duration_s: float, labels: Labels, config: EvaluateConfig
) -> dict[str, str]:
    """The group of a question in each grouping; ``category`` only where event labels are given."""
    limits = ((config.short_s, "short"), (config.medium_s, "medium"))
    task = task_of(pair.task)
    groups = {
        **({"duration": next((name for limit, name in limits if duration_s <= limit), "long")} if duration_s else {}),
        **task.groups(pair, true),
    }
    interval = task.interval(pair, true)
    events = labels.get(pair.video_id)
    if events and interval:
        groups["category"] = max(events, key=lambda event: interval_iou(event[0], interval))[1]
    return groups


def read_labels(path: str | Path | None) -> Labels:
    """Labelled events per video of a UnAV-100 JSON file; none without a file.

    Raises:
        ConfigError: the file isn't readable JSON of this format.
    """
    if path is None:
        return {}
    try:
        database = json.loads(Path(path).read_text(encoding="utf-8-sig"))["database"]
        return {video_id: [_event(one) for one in entry["annotations"]] for video_id, entry in database.items()}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a readable file in UnAV-100's format: {error!r}") from None


def _event(one: dict[str, Any]) -> tuple[Interval, str]:
    start, end = one["segment"]
    return (float(start), float(end)), str(one["label"])
