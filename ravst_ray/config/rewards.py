"""Configuration of the reward and of the evaluation. What the parts weigh by default each task says itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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


GraphMode = Literal["sharp", "paper_like"]
Angles = Literal["invariant", "literal"]
Gating = Literal["none", "correct_only", "spacer"]


class GraphConfig(StrictModel):
    """The reward of a graph that the model writes while it thinks."""

    mode: GraphMode = Field(
        "sharp",
        description="how far off a node earns nothing: a quarter of the diagonal, or (paper_like) all of it, where "
        "nodes in the middle earn most of the score",
    )
    angles: Angles = Field("invariant", description="literal: bearings against the axes, which a turn changes")
    scale_free: bool = Field(False, description="distances are compared after each graph's are divided by their mean")
    gating: Gating = Field(
        "none",
        description="correct_only: a graph counts where the answer is right; spacer: and a graph of 0 takes the answer",
    )
    length: tuple[int, int] = Field((320, 512), description="fewest and most tokens that the length reward asks for")
    length_above: float = Field(0.1, ge=0, le=1, description="and the answer has to score more than this")

    @model_validator(mode="after")
    def _in_order(self) -> GraphConfig:
        if not 0 <= self.length[0] <= self.length[1]:
            raise ValueError("length is [fewest, most] tokens")
        return self


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
    graph: GraphConfig = GraphConfig()


class EvaluateConfig(RewardConfig):
    """``ravst evaluate``: names, seconds and boxes are compared as in the reward."""

    bootstrap: int = Field(1000, ge=0, description="resamples for the 95% intervals; 0: none")
    seed: int = 0
    event_labels: Place | None = Field(None, description="UnAV-100 JSON with the events' categories, for the groups")
    short_s: float = Field(20.0, gt=0)
    medium_s: float = Field(40.0, gt=0)
    plots: bool = Field(True, description="whether index.html has plots beside the tables")
