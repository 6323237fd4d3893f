"""What the learner's states take of a card, known before anything is loaded.

Activations, logits, features of clips and CUDA itself stand on top: they aren't estimated here.
"""

from __future__ import annotations

from ravst_ray.config.train import TrainConfig
from ravst_ray.models.cards import Need
from ravst_ray.models.size import tower_parameters, weight_bytes

_FLOAT32, _BFLOAT16 = 4, 2
_MOMENTS = 2  # of Adam, each in float32


def learner_states(config: TrainConfig) -> Need | None:
    """The least that a learner's card holds all the time, in bytes, where it computes in bfloat16.

    What is trained is float32, and so are its gradient and Adam's two moments; ``learner.shard`` splits these and the
    start model of the KL term over ``learner.workers``. A frozen tower stands aside, whole and in bfloat16.

    Returns:
        None with an adapter, whose size isn't known, or where nothing tells the sizes of model and tower.
    """
    learner = config.learner
    whole, tower = weight_bytes(config.model, 1), tower_parameters(config.model)
    if learner.lora is not None or whole is None or tower is None:
        return None
    aside = tower if learner.freeze_vision else 0
    each = (whole - aside) / (learner.workers if learner.shard else 1)
    parts = [
        ("of weights", each * _FLOAT32),
        ("of gradients", each * _FLOAT32),
        ("of Adam's moments", each * _FLOAT32 * _MOMENTS),
    ]
    if aside:
        parts.append(("of the frozen tower", aside * _BFLOAT16))
    if learner.kl:
        parts.append(("of the start model", each * _BFLOAT16))
    return Need(tuple(parts))
