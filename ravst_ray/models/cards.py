"""What the language model's server and a grounding actor take of a card, held against the part that they get.

A model that doesn't fit ends in a ``ConfigError`` with the numbers and a setting that fits, before anything is loaded.
What is measured on a card stands on top, by ``tests/benchmarks/gpu_grounding.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from ravst_ray.config.annotate import GroundingConfig, LLMConfig
from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger
from ravst_ray.models.size import kv_bytes_per_token, read_json, sees, weight_bytes

log = get_logger(__name__)

GIB = 2**30
CONTEXT_GIB = 0.7  # measured on an H200: CUDA itself, and the libraries' kernels
DETECTOR_FRAME_GIB = 0.82  # a frame of a batch, 16 bits: measured 0.763 at 750 x 1333, and 800 x 1333 is the largest
SEGMENTER_GIB = 0.5  # a frame in the segmenter, 16 bits: measured 0.48
OBJECT_GIB = 0.011  # what the segmenter remembers of an object, 16 bits
OBJECTS = 26  # followed at once: two names with as many instances as are no crowd
SERVER_GIB = 1.5  # CUDA, its graphs and the activations of vLLM's first pass, for a model of 7 billion parameters
PICTURES_GIB = 2.0  # … and those of its vision tower on the largest picture
MOST_SHARE = 0.9  # of a card for the server; the rest is what vLLM doesn't count
_STEP = 0.05


@dataclass(frozen=True)
class Need:
    """Bytes by what they are for."""

    parts: tuple[tuple[str, float], ...]

    @property
    def total(self) -> float:
        """All of them."""
        return sum(size for _, size in self.parts)

    def __str__(self) -> str:
        """``14.2 GiB of weights + … = 15.8 GiB``."""
        return (
            " + ".join(f"{size / GIB:.1f} GiB {what}" for what, size in self.parts) + f" = {self.total / GIB:.1f} GiB"
        )


def server_need(config: LLMConfig) -> Need | None:
    """What vLLM must fit into its share: weights, the cache of one full context, and what it works in.

    Returns:
        None where nothing tells the model's size.
    """
    model = config.model_dir or ""
    weights = weight_bytes(model, 2)
    if weights is None:
        return None
    most = read_json(model, "config.json").get("max_position_embeddings")
    tokens = min(config.max_model_len, most) if isinstance(most, int) else config.max_model_len
    work = SERVER_GIB + (PICTURES_GIB if sees(model) else 0.0)
    return Need(
        (
            ("of weights", weights),
            (f"for the cache of {tokens} tokens", kv_bytes_per_token(model) * tokens),
            ("to work in", work * GIB),
        )
    )


def grounding_need(config: GroundingConfig) -> Need | None:
    """What a grounding actor takes: both models, a batch of the detector, a frame and the memory of the segmenter."""
    each = 4 if config.dtype == "float32" else 2
    sizes = [weight_bytes(model, each) for model in (config.detector, config.segmenter)]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    batch = config.batch_frames * DETECTOR_FRAME_GIB * each / 2
    segmenter = (SEGMENTER_GIB + OBJECTS * OBJECT_GIB) * each / 2
    return Need(
        (
            ("of weights", sum(known)),
            (f"for {config.batch_frames} frames at once in the detector", batch * GIB),
            (f"for {OBJECTS} objects in the segmenter", segmenter * GIB),
            ("for CUDA", CONTEXT_GIB * GIB),
        )
    )


def check_server(config: LLMConfig, card_bytes: int, num_gpus: float = 1.0) -> None:
    """Hold the local server against its share of a card.

    Args:
        config: the model and its share, ``gpu_memory_utilization``.
        card_bytes: the card's memory.
        num_gpus: the part of the card that its actor asks Ray for; the rest may be somebody else's.

    Raises:
        ConfigError: it doesn't fit, or takes more of the card than it asks for.
    """
    share = config.gpu_memory_utilization
    if share > min(num_gpus, 1.0):
        raise ConfigError(
            f"captions: the server takes llm.gpu_memory_utilization = {share:g} of a card of which its actor asks for "
            f"actors.llm.num_gpus = {num_gpus:g}; set actors.llm.num_gpus={share:g} or more"
        )
    need = server_need(config)
    if need is None:
        log.warning(
            "llm.model_dir: nothing tells how large %s is; whether it fits the card isn't known", config.model_dir
        )
        return
    if need.total <= share * card_bytes:
        return
    raise ConfigError(
        f"captions: {_name(config.model_dir)} needs {need}, but its share of the {card_bytes / GIB:.1f} GiB card "
        f"(llm.gpu_memory_utilization = {share:g}) is {share * card_bytes / GIB:.1f} GiB; "
        + _server_fix(config, need, card_bytes, num_gpus)
    )


def check_grounding(config: GroundingConfig, card_bytes: int, num_gpus: float = 1.0) -> None:
    """Hold a grounding actor against its part of a card.

    Args:
        config: the models, their dtype and batch.
        card_bytes: the card's memory.
        num_gpus: the part of it that the actor asks Ray for, beside other actors.

    Raises:
        ConfigError: it doesn't fit.
    """
    need = grounding_need(config)
    if need is None:
        models = f"{config.detector} and {config.segmenter}"
        log.warning("grounding: nothing tells how large %s are; whether they fit the card isn't known", models)
        return
    part_bytes = min(num_gpus, 1.0) * card_bytes
    if need.total <= part_bytes:
        return
    raise ConfigError(
        f"vision: {_name(config.detector)} and {_name(config.segmenter)} need {need}, but an actor's part of the "
        f"{card_bytes / GIB:.1f} GiB card (actors.ground.num_gpus = {num_gpus:g}) is {part_bytes / GIB:.1f} GiB; "
        + _grounding_fix(config, card_bytes, num_gpus)
    )


def _server_fix(config: LLMConfig, need: Need, card_bytes: int, num_gpus: float) -> str:
    """The least change that fits: a larger share, a shorter context, else another model or card."""
    share = ceil(need.total / card_bytes / _STEP) * _STEP
    if share <= MOST_SHARE + 1e-9:
        part = f" and actors.llm.num_gpus={share:g}" if num_gpus < share else ""
        return f"set llm.gpu_memory_utilization={share:g}{part}"
    fixed = need.total - need.parts[1][1]
    tokens = int((MOST_SHARE * card_bytes - fixed) / kv_bytes_per_token(config.model_dir or "")) // 256 * 256
    if tokens >= 256:
        part = f", llm.gpu_memory_utilization={MOST_SHARE:g} and actors.llm.num_gpus=1"
        return f"set llm.max_model_len={tokens}{part}"
    return f"take a smaller or a quantised model, or a card of {ceil(need.total / MOST_SHARE / GIB)} GiB or more"


def _grounding_fix(config: GroundingConfig, card_bytes: int, num_gpus: float) -> str:
    """The first change that fits: fewer frames at once, the whole card, 16 bits, or some of them together."""
    for settings, changed, part in _grounding_changes(config, num_gpus):
        need = grounding_need(changed)
        if need is not None and need.total <= part * card_bytes:
            return "set " + " and ".join(settings)
    least = grounding_need(config.model_copy(update={"batch_frames": 1, "dtype": "auto"}))
    assert least is not None
    return f"take smaller models, or a card of {ceil(least.total / GIB)} GiB or more"


def _grounding_changes(config: GroundingConfig, num_gpus: float) -> Iterator[tuple[list[str], GroundingConfig, float]]:
    """(settings to change, the configuration with them, part of the card), the mildest first."""
    dtypes = [config.dtype, "auto"] if config.dtype == "float32" else [config.dtype]
    for dtype in dtypes:
        for part in (num_gpus, 1.0) if num_gpus < 1 else (1.0,):
            frames = config.batch_frames
            while frames >= 1:
                changes = {"grounding.batch_frames": frames, "actors.ground.num_gpus": part, "grounding.dtype": dtype}
                now = (config.batch_frames, num_gpus, config.dtype)
                settings = [
                    f"{key}={value}" for (key, value), old in zip(changes.items(), now, strict=True) if value != old
                ]
                yield settings, config.model_copy(update={"batch_frames": frames, "dtype": dtype}), part
                frames //= 2


def _name(model: str | None) -> str:
    return (model or "").rstrip("/").rsplit("/", 1)[-1]
