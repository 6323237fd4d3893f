"""What a training run takes of a learner's card, of an engine's, of main memory and of disks, before anything starts.

Sizes come from the model's shape (:mod:`ravst_ray.models.shape`) and the configuration alone; no library that trains is
loaded. :mod:`ravst_ray.training.activations` has what a forward keeps for its backward.
"""

from __future__ import annotations

from dataclasses import dataclass

from ravst_ray.config.train import TrainConfig
from ravst_ray.models.cards import CONTEXT_GIB, GIB, PICTURES_GIB, SERVER_GIB, Need
from ravst_ray.models.shape import ModelShape, shape_of
from ravst_ray.training.activations import (
    Batch,
    backward_bytes,
    batch_of,
    feature_bytes,
    kept_bytes,
    logit_bytes,
    number_bytes,
)

_FLOAT32 = 4
_MOMENTS = 2  # of Adam, each in float32
_WORKS_OF = 7e9  # parameters of the model that the server's work is known of; a smaller one has less
_ASLEEP_GIB = 1.5  # what an engine that sleeps keeps of a card: CUDA, its graphs
_CHECKPOINT = 1 + _MOMENTS  # numbers in float32 of a parameter that learns


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes by what they are for.

    Attributes:
        learner: on a learner's card, at the worst moment.
        states: of these, what stays there while an engine is awake.
        engine: the least that an engine needs of one of its cards.
        share: the part of a card that an engine takes, whatever it needs.
        host: main memory of all processes together, as if they were on one node.
        disk: of the output, or, where that is an object store, of a node's scratch.
        shared: whether learner and engine have a card together, in turns or each a part of it.
        learner_on_card, engine_on_card: whether these have cards; without, they are parts of ``host``.
    """

    learner: Need
    states: Need
    engine: Need
    share: float
    host: Need
    disk: Need
    shared: bool
    learner_on_card: bool
    engine_on_card: bool

    @property
    def card(self) -> float:
        """Bytes of the smallest card with which the run fits; 0 where there is none."""
        least = [self.learner.total] if self.learner_on_card else [0.0]
        if self.engine_on_card:
            least.append(self.engine.total / self.share)
        if self.shared:  # new weights come while the engine is awake
            least.append(self.states.total / max(1 - self.share, 1e-9))
        return max(least)


def estimate(config: TrainConfig) -> Budget | None:
    """The budget of a run; None where nothing tells the model's shape."""
    shape = shape_of(config.model)
    if shape is None:
        return None
    rollouts, learner = config.rollouts, config.learner
    kinds = _Kinds(shape, config)
    states, batch = kinds.states(), batch_of(config, shape)
    worst = Need((*states.parts, *kinds.passing(batch)))
    if rollouts.share_gpu:
        worst = Need((*worst.parts, ("of the sleeping engine", _ASLEEP_GIB * GIB)))
    engine = kinds.engine()
    on_cards = learner.num_gpus > 0, rollouts.num_gpus > 0
    beside = (("of learners", worst.total * learner.workers), ("of engines", engine.total * rollouts.bounds[1]))
    host = Need(
        (*kinds.host(batch).parts, *(one for one, on_card in zip(beside, on_cards, strict=True) if not on_card))
    )
    share = config.engine.gpu_memory_utilization
    beside_each_other = 0 < learner.num_gpus < 1 and 0 < rollouts.num_gpus < 1 and not rollouts.share_gpu
    together = rollouts.share_gpu or beside_each_other
    return Budget(worst, worst if beside_each_other else states, engine, share, host, kinds.disk(), together, *on_cards)


@dataclass(frozen=True, slots=True)
class _Kinds:
    """The parts, each kind by itself."""

    shape: ModelShape
    config: TrainConfig

    @property
    def computed(self) -> int:
        """Bytes of the numbers that are computed with."""
        return number_bytes(self.config)[0]

    @property
    def trained(self) -> float:
        """Parameters that learn."""
        shape, learner = self.shape, self.config.learner
        if learner.lora is not None:
            widths = (shape.widths(target) for target in learner.lora.targets)
            return shape.layers * learner.lora.rank * sum(inside + outside for inside, outside in widths)
        return shape.language if learner.freeze_vision else shape.parameters

    def states(self) -> Need:
        """What a learner's card holds all the time.

        What is trained is float32, and so are its gradient and Adam's two moments; beside an adapter the model is of
        the type that is computed in. ``learner.shard`` splits these over ``learner.workers``. A frozen tower stands
        aside, whole and in the type that is computed in; policy and start model have it together.
        """
        shape, learner = self.shape, self.config.learner
        ranks = learner.workers if learner.shard else 1
        trained, base = self.trained, 0.0
        if learner.lora is not None:
            base = (shape.language if learner.freeze_vision else shape.parameters) * self.computed
        parts = [
            ("of weights", (base + trained * _FLOAT32) / ranks),
            ("of gradients", trained * _FLOAT32 / ranks),
            ("of Adam's moments", trained * _FLOAT32 * _MOMENTS / ranks),
        ]
        if learner.freeze_vision:
            parts.append(("of the frozen tower", shape.tower.parameters * self.computed))
        if learner.kl and learner.lora is None:
            start = shape.language if learner.freeze_vision else shape.parameters
            parts.append(("of the start model", start * self.computed / ranks))
        if self.config.learner.num_gpus:
            parts.append(("for CUDA", CONTEXT_GIB * GIB))
        return Need(tuple(parts))

    def passing(self, batch: Batch) -> list[tuple[str, float]]:
        """What comes and goes with a micro-batch, at its worst moment.

        A layer's backward and the output layer's follow one another: of the latter only what it takes beyond what is
        there at the first counts. The start model's pass, which keeps nothing for a backward, takes less.
        """
        shape, learner = self.shape, self.config.learner
        inputs = (self.config, shape, batch)
        backward, logits = backward_bytes(*inputs), logit_bytes(*inputs)
        parts = [
            ("of activations", kept_bytes(*inputs) + backward),
            ("for logits beyond activations", max(logits - backward, 0.0)),
            ("of features", feature_bytes(*inputs)),
        ]
        full = learner.lora is None
        if learner.shard:
            # Two layers at once, the embedding and the output layer, whole; and the gradients of as much.
            gathered = 2 * shape.layer + shape.embedding * (1 if shape.tied else 2)
            parts.append(("for what is gathered", float(gathered * self.computed * (2 if full else 1))))
        elif learner.num_gpus:
            parts.append(("for DDP's buckets", self.trained * _FLOAT32))
        if full and not learner.shard and self.computed < _FLOAT32:
            # Autocast keeps a copy of each weight as long as a forward lasts, or its backward needs them.
            copies = float(self.computed * shape.language)
            spare = max(backward, logits) if learner.gradient_checkpointing else 0.0
            parts.append(("for cast weights", max(copies - spare, 0.0)))
        return parts

    def engine(self) -> Need:
        """What vLLM must fit into its share: weights, the cache of one full context, and what it works in."""
        engine, shape = self.config.engine, self.shape
        on_cards = self.config.rollouts.num_gpus > 0
        each = self._engine_bytes
        cache = shape.cache * each * engine.max_model_len / engine.tensor_parallel
        work = (CONTEXT_GIB + (SERVER_GIB + PICTURES_GIB - CONTEXT_GIB) * min(shape.parameters / _WORKS_OF, 1)) * GIB
        if not on_cards:
            cache, work = engine.cpu_kv_cache_gib * GIB, 0.0
        return Need(
            (
                ("of weights", shape.parameters * each / engine.tensor_parallel),
                (f"for the cache of {engine.max_model_len} tokens", cache),
                ("to work in", work),
            )
        )

    @property
    def _engine_bytes(self) -> int:
        on_cards, dtype = self.config.rollouts.num_gpus > 0, self.config.engine.dtype
        return 4 if dtype == "float32" or (dtype == "auto" and not on_cards) else 2

    def host(self, batch: Batch) -> Need:
        """Main memory beside what the processes themselves take (some GiB each)."""
        rollouts, learner, shape = self.config.rollouts, self.config.learner, self.shape
        asked = rollouts.prompts_per_step * (rollouts.max_staleness + 1) * batch.clip_bytes
        parts = [
            ("of clips", rollouts.clips_gib * GIB + asked),
            ("of features", learner.workers * learner.features_gib * GIB),
        ]
        if learner.num_gpus:
            each = self.computed if learner.lora is not None else _FLOAT32
            start = self.computed if learner.kl and learner.lora is None else 0
            readers = 1 if learner.shard else learner.workers
            parts.append(("for loading", readers * shape.parameters * (each + start)))
        if self.config.transport == "object_store":
            whole = shape.language if learner.freeze_vision else shape.parameters
            sent = self.trained if self.config.ships_adapter else whole
            parts.append(("of weights on their way", float(_FLOAT32 * sent * (2 + rollouts.bounds[1]))))
        if rollouts.share_gpu and rollouts.sleep_level == 1:
            parts.append(("of sleeping engines", rollouts.bounds[1] * shape.parameters * self._engine_bytes))
        if learner.shard:
            parts.append(("of a checkpoint on its way", self.trained * _FLOAT32 * _CHECKPOINT))
        return Need(tuple(parts))

    def disk(self) -> Need:
        """Checkpoints that are kept, one more while it is written, and the model.

        Where the output is an object store, a node holds the newest checkpoint beside the one in work.
        """
        count = 2 if "://" in self.config.output else self.config.keep_checkpoints + 1
        return Need(
            (
                (f"of {count} checkpoints", count * _CHECKPOINT * self.trained * _FLOAT32),
                ("of the model", float(_FLOAT32 * self.shape.parameters)),
            )
        )
