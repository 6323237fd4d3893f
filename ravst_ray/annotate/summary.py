"""Counts of a finished run, as they stand in ``summary.json`` and in the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ravst_ray.annotate.texts import ADAPTED
from ravst_ray.datasets.store import DatasetStore, LedgerEntry
from ravst_ray.records import STATUSES

_LEFT_OUT = "left_out/"


def summarise(
    store: DatasetStore,
    ledger: Mapping[str, LedgerEntry],
    drops: Iterable[Mapping[str, Any]],
    wall_s: float,
    exported: Collection[str],
) -> dict[str, Any]:
    """Count what is in the store.

    Args:
        store: after compaction.
        ledger: its committed videos, which carry each video's numbers.
        drops: rows of videos rejected before any work was done (stages ``input`` and ``filter``).
        wall_s: seconds of this run.
        exported: statuses of the questions in the published format, which ``split`` and ``export`` count.
    """
    stats: Counter[str] = Counter()
    for entry in ledger.values():
        stats.update(entry.stats)
    drop_rows = list(drops)
    failed = [entry.error for entry in ledger.values() if entry.error]
    return {
        "videos": {
            "input": len(ledger) + len(drop_rows),
            "kept": len(ledger),
            "done": len(ledger) - len(failed),
            "failed": len(failed),
        },
        "drops": dict(Counter(row["reason"] for row in drop_rows).most_common()),
        "errors": dict(Counter(row["reason"] for row in failed).most_common()),
        **_annotation_counts(store),
        **_question_counts(store, exported),
        "questions_left_out": {
            key.removeprefix(_LEFT_OUT): int(count) for key, count in stats.most_common() if key.startswith(_LEFT_OUT)
        },
        "frames": int(stats["frames_decoded"]),
        "seconds_per_stage": {k.partition("/")[2]: round(v, 3) for k, v in stats.items() if k.startswith("seconds/")},
        "frames_per_s": round(stats["frames_grounded"] / stats["seconds/ground"], 3) if stats["seconds/ground"] else 0,
        "wall_s": round(wall_s, 3),
        "tokens": {
            "prompt": int(stats["tokens/prompt"]),
            "completion": int(stats["tokens/completion"]),
            "requests": int(stats["llm_requests"]),
            "cache_hits": int(stats["llm_cache_hits"]),
        },
        "usd": round(stats["usd"], 6),
        "llm_adaptations": sorted(key.removeprefix(ADAPTED) for key in stats if key.startswith(ADAPTED)),
    }


def own_objects(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The objects of a row of ``annotations/`` without those that are heard only in other events that it meets."""
    number = row["event_num"]
    return [found for found in row["objects"] if not found["heard_in"] or number in found["heard_in"]]


def _annotation_counts(store: DatasetStore) -> dict[str, Any]:
    events = objects = audible = 0
    status: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    durations: dict[str, float] = {}
    for row in store.rows("annotations"):
        events += 1
        own = own_objects(row)
        objects += len(own)
        audible += sum(found["audible"] for found in own)
        status[row["status"]] += 1
        reasons.update(row["reasons"])
        durations[row["video_id"]] = row["duration_s"]
    return {
        "events": events,
        "objects": objects,
        "share_audible": round(audible / objects, 4) if objects else 0.0,
        "hours_of_video": round(sum(durations.values()) / 3600, 4),
        "status": dict(status),
        "quality_reasons": dict(reasons.most_common()),
    }


def _question_counts(store: DatasetStore, exported: Collection[str]) -> dict[str, Any]:
    questions: Counter[str] = Counter()
    left_out = Counter({status: 0 for status in STATUSES if status not in exported})
    split: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
    videos: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in store.rows("qa"):
        if row["status"] != "rejected":
            questions[row["task"]] += 1
        if row["status"] not in exported:
            left_out[row["status"]] += 1
            continue
        split[row["split"]][row["task"]] += 1
        videos[row["split"]].add(row["video_id"])
    return {
        "questions": dict(sorted(questions.items())),
        "split": {name: {"videos": len(videos[name]), **sorted_counts(split[name])} for name in split},
        "export": {"statuses": list(exported), "left_out": dict(left_out)},
    }


def sorted_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """By key, as a plain dict."""
    return dict(sorted(counts.items()))
