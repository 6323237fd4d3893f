"""What the learner's forward keeps for its backward, and what else is on its card while a micro-batch is computed.

Counted by hand from what autograd saves of transformers' dense decoder layers, of attention by lines and of the
output layer in chunks; a test holds it against what torch allocates.
"""

from __future__ import annotations

from dataclasses import dataclass

from ravst_ray.config.train import TrainConfig
from ravst_ray.models.shape import ModelShape, TowerShape

TEXT_TOKENS = 1024
"""Of a prompt beside its video and sound: more than any question of the published data with what is said around it."""
CHUNK = 512
"""Tokens whose logits are there at once (:data:`ravst_ray.training.head.CHUNK`)."""
_FLOAT32 = 4
_PIECES = 16  # of the vocabulary, in work beside a chunk's logits
_SOUND_TOKENS_S = 25
_FRAME_PIXELS = 3 * 4  # bytes of a pixel as a tower takes it
_AT_ONCE = 8  # tensors as wide as a tower that are there at once while nothing is kept


@dataclass(frozen=True, slots=True)
class Batch:
    """The largest micro-batch.

    Attributes:
        clips: videos in it, each once.
        seen: tokens of one video.
        heard: tokens of its sound.
        tokens: of all lines together, padding included.
        answers: of all completions together.
        clip_bytes: frames of one clip, as they wait in main memory.
    """

    clips: int
    seen: int
    heard: int
    tokens: int
    answers: int
    clip_bytes: int


def batch_of(config: TrainConfig, shape: ModelShape) -> Batch:
    """With prompts as long as frames and ``TEXT_TOKENS`` of text make them, and completions of ``max_tokens``."""
    frames, rollouts, learner = config.frames, config.rollouts, config.learner
    pixels = max(min(frames.total_pixels, frames.max_frames * frames.max_pixels), frames.max_frames * frames.min_pixels)
    seen = pixels // (2 * shape.tower.token_px**2)
    listens = shape.tower.hears and frames.sound != "none"
    heard = round(frames.max_frames * frames.step_s * _SOUND_TOKENS_S) if listens else 0
    prompt = min(seen + heard + TEXT_TOKENS, config.engine.max_model_len)
    answer = min(rollouts.max_tokens, config.engine.max_model_len)
    groups = max(learner.micro_batch // rollouts.group_size, 1)
    prompts = groups if learner.share_prompts else learner.micro_batch
    answers = learner.micro_batch * answer
    return Batch(groups, seen, heard, prompts * prompt + answers, answers, 3 * pixels)


def kept_bytes(config: TrainConfig, shape: ModelShape, batch: Batch) -> float:
    """What all layers save, or, with gradient checkpointing, their inputs alone."""
    learner = config.learner
    _, stream = number_bytes(config)
    one = stream * shape.hidden if learner.gradient_checkpointing else _of_layer(config, shape)
    final = (_FLOAT32 + (0 if learner.lora is not None else stream)) * shape.hidden
    return batch.tokens * float(shape.layers * one + final)


def backward_bytes(config: TrainConfig, shape: ModelShape, batch: Batch) -> float:
    """The gradients inside a layer at work; with gradient checkpointing also what it saves, computed once more."""
    each, _ = number_bytes(config)
    again = _of_layer(config, shape) if config.learner.gradient_checkpointing else 0
    wide = 2 * each + (0 if config.learner.lora is None else _FLOAT32)  # an adapter casts its input to float32
    return batch.tokens * float(again + wide * shape.intermediate + 2 * _FLOAT32 * shape.hidden)


def _of_layer(config: TrainConfig, shape: ModelShape) -> int:
    lora = config.learner.lora
    return layer_bytes(shape, *number_bytes(config), *((None, 0) if lora is None else (lora.targets, lora.rank)))


def number_bytes(config: TrainConfig) -> tuple[int, int]:
    """Bytes of a number that is computed with, and of one of those that go from layer to layer.

    Autocast leaves the latter in float32, as the weights are; FSDP2 and an adapter's base have weights in bfloat16.
    """
    learner = config.learner
    each = 4 if learner.dtype == "float32" or (learner.dtype == "auto" and not learner.num_gpus) else 2
    return each, each if learner.shard or learner.lora is not None else 4


def layer_bytes(shape: ModelShape, each: int, stream: int, targets: tuple[str, ...] | None, rank: int = 0) -> int:
    """What autograd saves of a token in a layer.

    Args:
        shape: of the model.
        each: bytes of a number that is computed with.
        stream: bytes of a number that goes from layer to layer.
        targets: modules that an adapter is for; None: all weights learn.
        rank: the adapter's.
    """

    def read(names: tuple[str, ...]) -> int:
        """Copies of an input that linear modules save: each its own where it must be cast first."""
        wanted = len(names) if targets is None else len(set(names) & set(targets))
        cast = each != stream if targets is None else each < _FLOAT32
        return wanted if cast else min(wanted, 1)

    def norm(width: int, stream: int) -> int:
        """Its input in float32, and, where its weight learns, what that is multiplied with."""
        return width * (_FLOAT32 + (stream if targets is None else 0))

    inputs = each * shape.hidden * (read(("q_proj", "k_proj", "v_proj")) + read(("gate_proj", "up_proj")))
    attention = 2 * each * (shape.query + shape.key) + _FLOAT32 * shape.heads
    if targets is not None and each < _FLOAT32:
        attention += each * shape.query * read(("o_proj",))  # else the output that attention saves itself
    if shape.qk_norm:
        attention += norm(shape.query + shape.key, each)
    gated = each * shape.intermediate * (3 + read(("down_proj",)))
    return 2 * norm(shape.hidden, stream) + inputs + attention + gated + each * rank * len(targets or ())


def logit_bytes(config: TrainConfig, shape: ModelShape, batch: Batch) -> float:
    """A chunk's logits and a piece more in work, the columns that are read, and the gradients of both sides.

    Those are float32, and then of the type of columns and weights.
    """
    each, _ = number_bytes(config)
    chunk = min(CHUNK, batch.answers) * shape.vocab * _FLOAT32
    columns = batch.answers * shape.hidden * float(2 * each + _FLOAT32)
    weights = shape.embedding * (_FLOAT32 + (each if config.learner.shard else 0))
    return chunk * (1 + 2 / _PIECES) + columns + (weights if config.learner.lora is None else 0)


def feature_bytes(config: TrainConfig, shape: ModelShape, batch: Batch) -> float:
    """Features of a micro-batch's clips, and what the tower that sees holds while it makes them."""
    each, _ = number_bytes(config)
    tower, patches = shape.tower, 4 * batch.seen * batch.clips
    features = batch.clips * (batch.seen * tower.features + batch.heard) * shape.hidden * each
    pixels = batch.clips * batch.seen * 2 * tower.token_px**2 * _FRAME_PIXELS
    if config.learner.freeze_vision:
        return float(features + pixels + patches * each * (_AT_ONCE * tower.hidden + 3 * tower.intermediate))
    one = layer_bytes(_as_decoder(tower), each, 4, None)
    kept = tower.layers * 4 * tower.hidden + one if config.learner.gradient_checkpointing else tower.layers * one
    return float(features + pixels + patches * kept)


def _as_decoder(tower: TowerShape) -> ModelShape:
    """A tower's layers, which are built alike: all heads have keys."""
    return ModelShape(tower.layers, tower.hidden, 1, 1, tower.hidden, tower.intermediate, 0, True, False, tower)
