"""The published checkpoint names load by the default configuration.

A hub cache is laid out as a download leaves it, with random weights under the published names, and a process without
a network builds the grounding step from it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ravst_ray.config.annotate import GroundingConfig
from tests.tiny_models import save_detector, save_full_detector, save_full_segmenter, save_segmenter

_PROGRAM = """
import sys
from ravst_ray.annotate.grounding import build_ground
from ravst_ray.config.annotate import GroundingConfig
from tests.stub_scene import make_item
step = build_ground(GroundingConfig(device="cpu", detect_every=1, box_threshold=float(sys.argv[1]), text_threshold=0.0))
detect = step._detector.detect
step._detector.detect = lambda frames, names: [found[:3] for found in detect(frames, names)]
done = step.process(make_item(["red drum", "blue bell"], 2))
tracks = done.annotations[0].tracks
counts = [round(sum(w.numel() for w in m.parameters()) / 1e6) for m in (step._detector.model, step._segmenter.model)]
print(*counts, len(tracks), done.provenance["detector"], done.provenance["segmenter"])
"""


def place(cache: Path, name: str, save) -> None:
    """A saved model where the hub's client looks for ``name``."""
    home = cache / "hub" / ("models--" + name.replace("/", "--"))
    save(home / "snapshots" / "0")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0")


def ground_offline(cache: Path, box_threshold: float) -> list[str]:
    quiet = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ".", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", _PROGRAM, str(box_threshold)]
    done = subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_hub_names_load_from_the_hubs_cache(tmp_path):
    place(tmp_path, GroundingConfig().detector, save_detector)
    place(tmp_path, GroundingConfig().segmenter, save_segmenter)
    *_, tracks, detector, segmenter = ground_offline(tmp_path, box_threshold=0.2)
    assert int(tracks) > 0
    assert (detector, segmenter) == ("IDEA-Research/grounding-dino-base", "facebook/sam2.1-hiera-large")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_architectures_load_and_run(tmp_path):
    """Saved in half precision: about 1 GB on disk. The parameters are counted in millions."""
    torch.set_num_threads(1)
    try:
        place(tmp_path, GroundingConfig().detector, save_full_detector)
        place(tmp_path, GroundingConfig().segmenter, save_full_segmenter)
        detector, segmenter, tracks, *_ = ground_offline(tmp_path, box_threshold=0.0)
    finally:
        shutil.rmtree(tmp_path / "hub")
    assert (int(detector), int(segmenter), int(tracks) > 0) == (232, 224, True)
