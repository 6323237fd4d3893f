"""Every model of a run against the card, phase by phase, before anything starts.

The phases follow one another, each with its own part of a card: captions (the local server: its share, and no more of
the card than its actor asks for), then vision (detector and segmenter in each grounding actor).
"""

from __future__ import annotations

from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.models.cards import check_grounding, check_server


def check_cards(config: AnnotateConfig, card_bytes: int | None) -> None:
    """Hold the models of each phase that uses a GPU against a card of ``card_bytes``.

    Args:
        config: of the run.
        card_bytes: memory of the card; None where this machine has none: the actors check their own.

    Raises:
        ConfigError: something doesn't fit; the message has phase, model, numbers and what to change.
    """
    if card_bytes is None:
        return
    llm, ground = config.actors.llm, config.actors.ground
    if config.llm.backend == "local" and llm.num_gpus:
        check_server(config.llm, card_bytes, llm.num_gpus)
    if config.grounding.device != "cpu" and ground.num_gpus:
        check_grounding(config.grounding, card_bytes, ground.num_gpus)
