"""How many nodes a run had: counted, kept, and shown in the status and in the report."""

import json
import re
from dataclasses import replace

import pytest

from ravst_ray.annotate.status import RECORD, RunRecord, read_status
from ravst_ray.cluster.nodes import NodeWatch, count_nodes
from ravst_ray.datasets import node_log
from ravst_ray.datasets.lock import OutputLock
from ravst_ray.datasets.node_log import NODES, NodeLog, read_nodes, thinned, working_seconds
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.records import NodeCount
from ravst_ray.reports.annotation_report import render_annotation_report
from ravst_ray.reports.cluster_charts import cluster_charts
from ravst_ray.reports.curves import moment

ONE = NodeCount(at=100.0, nodes=1, gpu_nodes=0, cpus=4.0, cpus_used=1.5, gpus=0.0, gpus_used=0.0)
GROWN = replace(ONE, nodes=3, gpu_nodes=1, cpus=20.0, cpus_used=9.0, gpus=2.0, gpus_used=1.0)


@pytest.fixture
def store(tmp_path) -> DatasetStore:
    made = DatasetStore(str(tmp_path / "out"))
    made.prepare()
    return made


def at(count: NodeCount, *times: float) -> list[NodeCount]:
    return [replace(count, at=time) for time in times]


# --- counting ---


def test_nodes_are_counted_by_kind():
    head = {"Alive": True, "Resources": {"CPU": 0.0, "memory": 1e9}}
    cpu = {"Alive": True, "Resources": {"CPU": 16.0}}
    gpu = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}
    dead = {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 1.0}}
    found = count_nodes([head, cpu, gpu, gpu, dead], {"CPU": 29.5, "memory": 1e9})
    assert (found.nodes, found.gpu_nodes) == (4, 2)
    assert (found.cpus, found.cpus_used, found.gpus, found.gpus_used) == (32.0, 2.5, 2.0, 2.0), "no GPU is free"


def test_a_node_that_went_between_two_questions_gives_no_negative_numbers():
    assert count_nodes([{"Alive": True, "Resources": {"CPU": 2.0}}], {"CPU": 6.0}).cpus_used == 0.0


def test_a_cluster_is_watched_from_beginning_to_end(store, local_ray):
    with NodeLog(store) as counts, NodeWatch(counts.add, every_s=60.0):
        pass
    found = read_nodes(store)
    assert 1 <= len(found) <= 2, "at once, and when it is over"
    assert all((one.nodes, one.gpu_nodes, one.cpus, one.run) == (1, 0, 4.0, 0) for one in found)


def test_without_ray_nothing_is_counted(store, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with NodeLog(store) as counts, NodeWatch(counts.add):
        pass
    assert store.read_bytes(NODES) is None


def test_what_can_not_be_asked_ends_no_run(store, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.nodes", lambda: (_ for _ in ()).throw(RuntimeError("the head is gone")))
    with NodeLog(store) as counts, NodeWatch(counts.add):
        pass
    assert read_nodes(store) == []


# --- keeping ---


def test_counts_go_on_over_runs(store):
    first = NodeLog(store)
    for count in [*at(ONE, 100.0), *at(GROWN, 105.0)]:
        first.add(count)
    second = NodeLog(store)
    second.add(replace(ONE, at=900.0))
    found = read_nodes(store)
    assert [(one.at, one.nodes, one.run) for one in found] == [(100.0, 1, 0), (105.0, 3, 0), (900.0, 1, 1)]
    assert replace(found[1], run=0) == replace(GROWN, at=105.0), "all numbers come back"


def test_it_is_written_when_a_node_comes_and_else_now_and_then(store):
    now = [0.0]
    counts = NodeLog(store, clock=lambda: now[0])
    for second in range(0, 65, 5):
        now[0] = second
        counts.add(replace(ONE, at=float(second)))
    assert [one.at for one in read_nodes(store)][-1] == 60.0, "every 30 s"
    now[0] = 70.0
    counts.add(replace(ONE, at=65.0))
    counts.add(replace(GROWN, at=70.0))
    assert read_nodes(store)[-1].nodes == 3


def test_long_runs_stay_small_and_keep_every_change(store, monkeypatch):
    monkeypatch.setattr(node_log, "MOST", 100)
    counts = NodeLog(store)
    for place in range(5000):
        there = GROWN if 1000 <= place < 1003 or place == 4000 else ONE
        counts.add(replace(there, at=5.0 * place))
    counts.write()
    found = read_nodes(store)
    assert len(found) < 130
    assert [one.at for one in found if one.nodes == 3] == [5000.0, 5010.0, 20000.0]
    assert {4995.0, 5015.0, 19995.0, 20005.0} <= {one.at for one in found}, "when exactly they came and went"
    assert found[0].at == 0.0 and found[-1].at > 24000.0
    assert len(store.read_bytes(NODES)) < 130 * 60


def test_thinning_keeps_both_ends():
    assert thinned([]) == [] and thinned([ONE]) == [ONE]
    assert [one.at for one in thinned(at(ONE, 0, 1, 2, 3, 4, 5))] == [0, 2, 4, 5]


def test_a_broken_file_begins_anew(store):
    for data in (b"", b"[1, 2", b'{"columns": ["at"], "rows": [[1, 2]]}', b'{"rows": []}'):
        store.write_bytes(NODES, data)
        assert read_nodes(store) == []
    NodeLog(store).add(ONE)
    assert read_nodes(store) == [ONE]


def test_a_store_that_is_away_costs_no_run(store, monkeypatch):
    def away(*_):
        raise OSError("away")

    monkeypatch.setattr(DatasetStore, "replace_bytes", away)
    NodeLog(store).add(ONE)


# --- showing ---


def test_the_status_tells_the_last_count(store):
    with OutputLock(store) as lock, RunRecord(store, lock):
        assert read_status(store.root).cluster is None and "cluster" not in read_status(store.root).to_text()
        counts = NodeLog(store)
        counts.add(ONE)
        assert "cluster   1 node; 1.5 of 4 CPUs in use" in read_status(store.root).to_text().splitlines()
        counts.add(GROWN)
    found = read_status(store.root)
    line = "cluster   3 nodes, 1 with GPUs; 9 of 20 CPUs and 1 of 2 GPUs in use"
    assert line in found.to_text().splitlines()
    assert json.loads(found.to_json())["cluster"]["gpu_nodes"] == 1
    assert json.loads(store.read_bytes(RECORD))["cluster"] is None, "it has a file of its own"


def test_time_between_runs_is_no_working_time():
    counts = [*at(ONE, 0.0, 5.0), *at(replace(ONE, run=1), 1000.0, 1010.0)]
    assert working_seconds(counts) == [0.0, 5.0, 5.0, 15.0] and working_seconds([]) == []


def test_charts_by_hand():
    counts = [*at(ONE, 0.0, 60.0), *at(GROWN, 90.0, 240.0), *at(ONE, 300.0)]
    nodes, cpus, gpus = cluster_charts(counts)
    assert [chart.title for chart in (nodes, cpus, gpus)] == ["Nodes", "CPUs", "GPUs"]
    assert [(curve.label, curve.last) for curve in nodes.curves] == [("without a GPU", 2), ("with a GPU", 1)]
    assert [(curve.label, curve.last) for curve in gpus.curves] == [("in use", 1.0), ("there", 2.0)]
    # 0 to 2 nodes in 1000 units, downwards; 300 s across.
    assert nodes.curves[0].path == "M0.0 500.0L200.0 500.0L300.0 0.0L800.0 0.0L1000.0 500.0"
    assert nodes.curves[0].smooth == ""
    assert [(tick.at, tick.label) for tick in nodes.x_ticks] == [
        (0.0, "0 s"), (20.0, "1 min"), (40.0, "2 min"), (60.0, "3 min"), (80.0, "4 min"), (100.0, "5 min"),
    ]  # fmt: skip
    assert nodes.strips[2][2] == "1 min 30 s: without a GPU 2, with a GPU 1"


def test_a_single_node_is_not_drawn():
    assert cluster_charts([]) == [] and cluster_charts(at(ONE, 0.0, 5.0)) == []
    assert [chart.title for chart in cluster_charts(at(replace(ONE, nodes=2), 0.0, 5.0))] == ["Nodes", "CPUs"]


def test_times_for_people():
    assert [moment(at_s) for at_s in (0, 59.6, 90, 3600, 3665)] == [
        "0 s", "1 min", "1 min 30 s", "1 h", "1 h 1 min 5 s",
    ]  # fmt: skip


def test_the_report_draws_it():
    counts = [*at(ONE, 0.0, 60.0), *at(GROWN, 90.0)]
    page = render_annotation_report({}, [], [], counts)
    assert re.findall(r'aria-label="(Nodes[^"]*)"', page) == ["Nodes over time; up to without a GPU 2, with a GPU 1"]
    assert '<b><data value="2">2</data></b>' in page.replace("2.0", "2")
    assert "Nodes over time" not in render_annotation_report({}, [], [], at(ONE, 0.0, 5.0))
