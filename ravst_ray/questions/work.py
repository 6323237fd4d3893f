"""One scene from its file to the store: what runs in this process or on a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from ravst_ray.config.make_str import StrRules
from ravst_ray.datasets.places import insist
from ravst_ray.datasets.scenes import SceneRef, read_scene
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.logs import get_logger
from ravst_ray.questions.make import questions_of

log = get_logger(__name__)

MALFORMED, UNFORESEEN = "malformed_scene", "internal_error"


def commit_scenes(refs: Iterable[SceneRef], rules: StrRules, store: DatasetStore) -> Iterator[str | None]:
    """Read each scene, write its questions and commit them; gives why a scene failed, None for those that didn't.

    A scene that fails is a row in ``errors``; when its file is put right, the same command does it again.
    """
    for ref in refs:
        rows: list[dict[str, Any]] = []
        stats: dict[str, float] = {}
        error: dict[str, Any] | None = None
        try:
            rows, left_out = questions_of(read_scene(ref), rules)
            stats = {f"left_out/{reason}": float(count) for reason, count in left_out.items()}
        except ValueError as fault:
            error = _error(ref, MALFORMED, str(fault))
        except Exception as fault:  # a fault of ours costs this scene, not the run
            log.exception("%s: unforeseen error", ref.scene_id)
            error = _error(ref, UNFORESEEN, f"{type(fault).__name__}: {fault}")
        tables = {"questions": rows, "errors": [error] if error else []}
        insist(partial(store.commit, ref.scene_id, tables, stats), store.root)
        yield error["reason"] if error else None


def _error(ref: SceneRef, reason: str, message: str) -> dict[str, Any]:
    return {"video_id": ref.scene_id, "stage": "scenes", "reason": reason, "message": message, "retryable": True}
