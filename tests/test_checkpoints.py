"""The committed tiny checkpoints: they load as the real ones do and find what is there."""

import json

import numpy as np
import pytest
import torch

from ravst_ray.toyworld.checkpoints import DETECTOR, SEGMENTER
from ravst_ray.toyworld.samples import MODEL_SIZE_PX, shrink
from ravst_ray.toyworld.scene import likely_moment, random_scene, render


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
