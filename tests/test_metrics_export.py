"""What Prometheus gets to see of a run."""

import re
import threading
import time
import urllib.request

import ray

from ravst_ray.annotate.pipeline import stream
from ravst_ray.cluster.metrics import TrainingMetrics, step_of_operator
from ravst_ray.datasets.store import DatasetStore
from tests.test_pipeline import STUBS, stub_config, videos


def scrape() -> dict[str, float]:
    """Our samples, summed over processes: name{tags that are ours} -> value."""
    (node,) = (node for node in ray.nodes() if node["Alive"])
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = opener.open(url, timeout=10).read().decode()
    found: dict[str, float] = {}
    for name, tags, value in re.findall(r"^ray_(ravst_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        ours = ",".join(re.findall(r'(?:reason|step|number)="[\w/]+"', tags))
        key = f"{name}{{{ours}}}" if ours else name
        found[key] = found.get(key, 0.0) + float(value)
    return found


def keep_scraping(latest: dict[str, float], done: threading.Event) -> None:
    while not done.wait(0.5):
        latest.update(scrape())


def test_a_run_in_prometheus(tmp_path, local_ray):
    DatasetStore(str(tmp_path)).prepare()
    before = scrape()
    latest = dict(before)  # a series comes with the next report, and may go soon after its phase is over
    done = threading.Event()
    watching = threading.Thread(target=keep_scraping, args=(latest, done), daemon=True)
    watching.start()
    rows = list(stream(stub_config(tmp_path), videos("good1", "good2", "good3", "bad1", "bug"), STUBS))
    assert len(rows) == 5
    wanted = {
        "ravst_videos_done_total": 3,
        'ravst_videos_failed_total{reason="no_video_stream"}': 1,
        'ravst_videos_failed_total{reason="internal_error"}': 1,
        "ravst_frames_total": 12,
    }
    queues = {f'ravst_queue_length{{step="{step}"}}' for step in ("captions", "decode", "ground", "finish")}
    until = time.monotonic() + 90
    while True:
        grown = {name: latest.get(name, 0.0) - before.get(name, 0.0) for name in wanted}
        if grown == wanted and queues <= latest.keys() and latest.get("ravst_videos_left") == 0:
            break
        assert time.monotonic() < until, (grown, sorted(latest))
        time.sleep(1.0)
    done.set()
    watching.join()
    assert latest["ravst_frames_per_s"] > 0


def test_a_training_in_prometheus(local_ray):
    metrics = TrainingMetrics()
    metrics.show({"step": 1, "reward/mean": 0.5, "staleness/mean": 0.0})
    metrics.show({"step": 2, "reward/mean": 0.75, "staleness/mean": 1.0})
    wanted = {"step": 2.0, "reward/mean": 0.75, "staleness/mean": 1.0}
    until = time.monotonic() + 90
    while True:
        now = scrape()
        found = {name: now.get(f'ravst_training{{number="{name}"}}') for name in wanted}
        if found == wanted:
            break
        assert time.monotonic() < until, found
        time.sleep(1.0)


def test_names_of_steps():
    assert step_of_operator("ActorPoolMapOperator[MapBatches(GroundActor)]") == "ground"
    assert step_of_operator("MapBatches(Finish.__call__)") == "finish"
    assert step_of_operator("Input") is None
