"""Configuration of ``ravst review``."""

from __future__ import annotations

from pydantic import Field

from ravst_ray.config.base import Place, StrictModel


class ReviewConfig(StrictModel):
    """What the page shows and counts, and where it is served."""

    host: str = Field("127.0.0.1", min_length=1, description="address to serve at; another than loopback needs a token")
    port: int = Field(8765, ge=0, le=65535, description="0: any that is free")
    token: str | None = Field(None, min_length=16, description="what a browser must know")
    reviewer: str = Field(min_length=1, max_length=80, description="who reviews, where a browser doesn't say")
    videos: Place | None = Field(None, description="folder of the videos; default: the run's input.videos")
    sample_rows: int = Field(200, ge=1, description="accepted rows drawn at random, for the estimate of their errors")
    seed: int = Field(0, description="of that draw")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the estimate's interval")
    usd_per_hour: float = Field(0.0, ge=0, description="what an hour of a reviewer costs")
    fetched_bytes: int = Field(2 * 2**30, ge=0, description="copies of videos from an object store that are kept")
