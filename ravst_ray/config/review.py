"""Configuration of ``ravst review``: of annotations, and of predictions."""

from __future__ import annotations

from pydantic import Field

from ravst_ray.config.base import Place, StrictModel
from ravst_ray.config.rewards import RewardConfig


class PageConfig(StrictModel):
    """Where a page is served, and its videos."""

    host: str = Field("127.0.0.1", min_length=1, description="address to serve at; another than loopback needs a token")
    port: int = Field(8765, ge=0, le=65535, description="0: any that is free")
    token: str | None = Field(None, min_length=16, description="what a browser must know")
    videos: Place | None = Field(None, description="folder of the videos; default: the run's, where there is one")
    fetched_bytes: int = Field(2 * 2**30, ge=0, description="copies of videos from an object store that are kept")


class ReviewConfig(PageConfig):
    """What the page of annotations shows and counts."""

    reviewer: str = Field(min_length=1, max_length=80, description="who reviews, where a browser doesn't say")
    sample_rows: int = Field(200, ge=1, description="accepted rows drawn at random, for the estimate of their errors")
    seed: int = Field(0, description="of that draw")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the estimate's interval")
    usd_per_hour: float = Field(0.0, ge=0, description="what an hour of a reviewer costs")


class PredictionsConfig(PageConfig, RewardConfig):
    """The page of predictions: answers are scored as ``ravst score`` does it, with the same settings."""
