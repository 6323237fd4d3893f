"""One run of ``ravst make-str``, from scenes to a dataset of questions.

::

    input.scenes ─► refs, minus excluded and committed ones ─► this process, or Ray Data (RAY_FROM scenes and more)
                                                                  read ─► ask ─► commit, a scene at a time
    OUT/questions.parquet, questions.jsonl, summary.json, README.md, index.html ◄─ the store, compacted
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from rich.console import Console

from ravst_ray.config.base import dump_config
from ravst_ray.config.make_str import MakeStrConfig
from ravst_ray.datasets.lock import OutputLock
from ravst_ray.datasets.places import insist, is_remote
from ravst_ray.datasets.scenes import SceneRef, list_scenes
from ravst_ray.datasets.splits import hash_share
from ravst_ray.datasets.store import DatasetStore, LedgerEntry
from ravst_ray.datasets.str_tables import QUESTIONS, STR_TABLES
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.progress import RunProgress
from ravst_ray.questions.card import dataset_card
from ravst_ray.questions.exclude import read_excluded, split_excluded
from ravst_ray.questions.work import commit_scenes
from ravst_ray.reports.str_report import render_str_report

RAY_FROM = 200
"""From so many scenes on Ray is started; fewer are done before it would be."""
SHAPING = ("seed", "questions", "margins", "input")
SAMPLES = 2  # of each kind in the report
_AT_ONCE = 5000  # rows


def make_str(config: MakeStrConfig, console: Console) -> dict[str, Any]:
    """Make the questions of all scenes and write the dataset; returns the summary.

    Raises:
        ConfigError: an input or the output can't be used; nothing was started.
        AbortError: the run broke; what is committed stays, and the same call goes on from there.
    """
    started = time.monotonic()
    if not is_remote(config.output):  # workers have other working directories
        config = config.model_copy(update={"output": str(Path(config.output).absolute())})
    refs, excluded = _select(config, console)
    store = DatasetStore(config.output, STR_TABLES)
    store.prepare()
    try:
        with OutputLock(store) as lock:
            ledger = insist(store.ledger, store.root)
            _check_same_settings(store, config, begun=bool(ledger))
            store.replace_bytes("config.yaml", dump_config(config).encode())
            todo = [ref for ref in refs if not (ref.scene_id in ledger and ledger[ref.scene_id].settled)]
            _commit(todo, config, store, console)
            lock.check(now=True)
            summary = insist(partial(finish, config, store, refs, excluded), store.root)
    except OSError as error:
        raise AbortError(
            f"output {config.output}: {error}; what is committed stays, the same command goes on"
        ) from error
    wall_s = time.monotonic() - started
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(f"{summary['scenes']['done']} scenes done, {summary['scenes']['failed']} failed, {len(excluded)} excluded")
    say(f"{summary['questions']} questions of {len(summary['kinds'])} kinds in {wall_s:.0f} s: {config.output}")
    return summary


def _select(config: MakeStrConfig, console: Console) -> tuple[list[SceneRef], set[str]]:
    refs = list_scenes(config.input.format, config.input.scenes)
    out, strangers = split_excluded([ref.scene_id for ref in refs], read_excluded(config.exclude))
    kept = [ref for ref in refs if ref.scene_id not in out][: config.input.limit]
    note = f" ({strangers} ids of the lists are none of these scenes)" if strangers else ""
    console.print(f"{len(refs)} scenes, {len(out)} of them excluded{note}", highlight=False, soft_wrap=True)
    return kept, out


def _check_same_settings(store: DatasetStore, config: MakeStrConfig, begun: bool) -> None:
    """Refuse to go on where committed questions were made by other rules; input.limit and exclude may change."""
    before = yaml.safe_load(store.read_bytes("config.yaml") or b"") if begun else None
    if not isinstance(before, dict):
        return
    now = config.model_dump(mode="json")
    for one in (before, now):
        one["input"] = {key: value for key, value in one.get("input", {}).items() if key != "limit"}
    if changed := [name for name in SHAPING if before.get(name) != now[name]]:
        raise ConfigError(
            f"output {config.output}: begun with other settings ({', '.join(changed)}, see config.yaml there); "
            "choose another output, or go on with the old settings"
        )


def _commit(todo: Sequence[SceneRef], config: MakeStrConfig, store: DatasetStore, console: Console) -> None:
    if len(todo) < RAY_FROM:
        reasons = commit_scenes(todo, config, store)
    else:
        from ravst_ray.questions.stream import commit_on_ray

        reasons = commit_on_ray(todo, config, store)
    with RunProgress("asking", "scenes", len(todo), console) as progress:
        for reason in reasons:
            progress.add(failed=reason is not None)


def finish(config: MakeStrConfig, store: DatasetStore, refs: Sequence[SceneRef], excluded: set[str]) -> dict[str, Any]:
    """Compact what is committed and write everything that is made from it; returns the summary."""
    ledger = store.compact()
    scenes = [ref.scene_id for ref in refs]
    table = store.table("questions")
    table = table.filter(pc.is_in(table["scene"], pa.array(scenes, pa.string())))
    table = table.sort_by([("scene", "ascending"), ("kind", "ascending"), ("id", "ascending")])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    store.write_bytes("questions.parquet", sink.getvalue().to_pybytes())
    samples, letters = _write_lines(store, table, config.seed)
    summary = summarise(table, [ledger[name] for name in scenes if name in ledger], excluded) | {"letters": letters}
    store.write_bytes("summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    errors = [row for row in store.rows("errors") if row["video_id"] in set(scenes)]
    store.write_bytes("README.md", dataset_card(config, summary).encode())
    store.write_bytes("index.html", render_str_report(summary, samples, errors).encode())
    return summary


def _write_lines(
    store: DatasetStore, table: pa.Table, seed: int
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, int]]]:
    """``questions.jsonl``; gives the report's samples, and how often each letter is right, by kind."""
    samples: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    letters: dict[str, Counter[str]] = {}
    lines: list[bytes] = []
    for batch in table.to_batches(max_chunksize=_AT_ONCE):
        for row in batch.to_pylist():
            lines.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            best = samples.setdefault(row["kind"], [])
            best.append((hash_share(seed, row["id"], "sample"), row))
            if len(best) > SAMPLES:
                best.remove(max(best, key=lambda one: one[0]))
            if row["form"] == "choice":
                letters.setdefault(row["kind"], Counter())[row["answer"]] += 1
    store.write_bytes("questions.jsonl", b"".join(lines))
    chosen = {kind: [row for _, row in sorted(best, key=lambda one: one[0])] for kind, best in samples.items()}
    return chosen, {kind: dict(sorted(found.items())) for kind, found in sorted(letters.items())}


def summarise(table: pa.Table, entries: Sequence[LedgerEntry], excluded: set[str]) -> dict[str, Any]:
    """The run's numbers: questions by kind and source, scenes, and what was left out by reason."""
    left_out: Counter[str] = Counter()
    for entry in entries:
        for name, count in entry.stats.items():
            left_out[name.removeprefix("left_out/")] += round(count)
    failed = Counter(entry.error["reason"] for entry in entries if entry.error)
    return {
        "questions": table.num_rows,
        "kinds": _counted(table, "kind"),
        "sources": _counted(table, "source"),
        "forms": _counted(table, "form"),
        "scenes": {"done": sum(entry.ok for entry in entries), "failed": sum(failed.values())},
        "errors": dict(failed.most_common()),
        "excluded": sorted(excluded),
        "left_out": dict(left_out.most_common()),
        "columns": {field.name: field.metadata[b"doc"].decode() for field in QUESTIONS},
    }


def _counted(table: pa.Table, column: str) -> Mapping[str, int]:
    counts = {pair["values"]: pair["counts"] for pair in pc.value_counts(table[column]).to_pylist()}
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
