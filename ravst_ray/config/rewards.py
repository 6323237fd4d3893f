"""Configuration of the reward and of the evaluation. What the parts weigh by default each task says itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ravst_ray.config.base import Place, StrictModel

Weight = Annotated[float, Field(ge=0)]


class NamesConfig(StrictModel):
    """How object names are compared."""

    vectors: Place | None = Field(
        "auto",
        description="word vectors: a .bin, .txt, .vec (word2vec format) or .npy file; 'glove': the installed GloVe "
        "package; 'auto': that where it is installed, else equality; null: equality of normal forms",
    )
    tau: float | None = Field(None, gt=0, le=1, description="cosine from which names are the same; null: calibrated")


class RewardConfig(StrictModel):
    """The reward of one completion."""

    profile: Literal["ravst", "paper_compat"] = Field(
        "ravst", description="paper_compat: as the published code scores, for comparison only"
    )
    weights: dict[str, dict[str, Weight]] = Field(
        {}, description="by task and part; those that are not given are the task's own (ravst_ray/tasks/)"
    )
    names: NamesConfig = NamesConfig()
    spatial_domain: Literal["union", "overlap"] = Field(
        "union", description="seconds that the spatial score is the mean of; overlap is the paper's, and can be gamed"
    )
    snap_s: float = Field(0.5, ge=0, description="a predicted time this near to a true one is that second")
    truncated_reward: float | None = Field(
        None, description="reward of a completion that hit the token limit; null: it is scored as it stands"
    )


class EvaluateConfig(RewardConfig):
    """``ravst evaluate``: names, seconds and boxes are compared as in the reward."""

    bootstrap: int = Field(1000, ge=0, description="resamples for the 95% intervals; 0: none")
    seed: int = 0
    event_labels: Place | None = Field(None, description="UnAV-100 JSON with the events' categories, for the groups")
    short_s: float = Field(20.0, gt=0)
    medium_s: float = Field(40.0, gt=0)
    plots: bool = True
