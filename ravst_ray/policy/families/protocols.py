"""What a model family says of itself: one protocol for everybody, one for the learner.

vLLM's behaviour is the truth: prompt ids and positions are those that its engine has, and the learner follows.
This module imports no heavy library, and no family does before :meth:`Family.learner` is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from ravst_ray.media.clips import Clip

BoxSpace = Literal["frame", "thousand"]
Tensors = Mapping[str, Any]
"""Tensors by name; what the names are is the family's own affair."""
LINEAR = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
"""The linear layers of a language model of Qwen's."""


@dataclass(frozen=True)
class Shape:
    """Of a clip, all that the tokens of its prompt and their positions depend on.

    Attributes:
        frames, height, width: of the pictures, in pixels.
        step_s: seconds between pictures.
        samples: of its sound, at 16 kHz; None where the model is shown pictures alone.
    """

    frames: int
    height: int
    width: int
    step_s: float
    samples: int | None = None

    @classmethod
    def of(cls, clip: Clip) -> Shape:
        """Of a clip."""
        frames, height, width, _ = clip.frames.shape
        return cls(frames, height, width, clip.step_s, None if clip.sound is None else len(clip.sound))


class Family(Protocol):
    """What prediction, rollouts and the learner must agree on. Adding one: a file, a line in the registry, two tests.

    Attributes:
        name: as people write it.
        model_types: what ``model_type`` of a checkpoint's ``config.json`` is.
        frame_multiple: pixels; both sides of a picture are multiples of it (one token's side).
        hears: whether a clip's sound is part of the prompt.
        max_step_s: the largest number of seconds between pictures with which a clip that has sound can be shown.
        box_space: of the boxes that its checkpoints have learned to give: pixels of the pictures, or thousandths.
        adapter_targets: names of the layers that vLLM's engine can add an adapter to; with others, whole weights are
            sent.
    """

    name: str
    model_types: tuple[str, ...]
    frame_multiple: int
    hears: bool
    max_step_s: float
    box_space: BoxSpace
    adapter_targets: frozenset[str]

    def prompt_ids(self, tokenizer: Any, text: str, shape: Shape | None) -> list[int]:
        """Token ids of a prompt, placeholders of video and sound expanded: what vLLM's engine sees.

        Args:
            tokenizer: the model's.
            text: what is asked.
            shape: of the clip that it is asked about; None for text alone.

        Raises:
            StepError: ``bad_prompt``, a token of the model's own is written out in ``text``.
            ConfigError: the chat template has no place for a video.
        """
        ...

    def positions(self, prompt_ids: Sequence[int], shape: Shape | None, config: Any) -> np.ndarray:
        """Rotary positions of a prompt, ``int64 [3, L]``, as vLLM computes them.

        What follows the prompt counts on from the largest one.

        Args:
            prompt_ids: from :meth:`prompt_ids`.
            shape: of the clip.
            config: the model's (transformers).

        Raises:
            ValueError: the placeholders don't fit the shape.
        """
        ...

    def banned_ids(self, tokenizer: Any) -> list[int]:
        """Tokens that must not be sampled: padding, and placeholders of media, which the learner would count."""
        ...

    def engine_arguments(self) -> dict[str, Any]:
        """Arguments of vLLM's engine."""
        ...

    def request(self, tokenizer: Any, text: str, clip: Clip | None) -> dict[str, Any]:
        """A prompt as vLLM's ``generate`` takes it; raises as :meth:`prompt_ids`."""
        ...

    def learner(self) -> LearnerSide:
        """What the learner needs; loads torch.

        Raises:
            ConfigError: models of this family can be asked but not trained.
        """
        ...


class LearnerSide(Protocol):
    """What the learner needs of a family. Models are bare here: what DDP, FSDP2 and PEFT wrap.

    Attributes:
        sharded_layers: class names of the layers that FSDP2 shards one by one.
        towers: paths of the modules that turn pictures and sound into features, from the model on.
        adapter_scope: a regular expression for the modules among which an adapter finds its targets (the language
            model's layers; ``{targets}`` stands for the targets' names).
    """

    sharded_layers: tuple[str, ...]
    towers: tuple[str, ...]
    adapter_scope: str

    def load(self, source: str, dtype: Any) -> Any:
        """The model of a directory or hub name, its weights of a torch ``dtype``."""
        ...

    def empty(self, source: str, dtype: Any) -> Any:
        """The same model without weights: on torch's ``meta`` device."""
        ...

    def save(self, model: Any, state: Tensors, folder: Any) -> None:
        """Write ``config.json``, ``generation_config.json`` and weights that vLLM and :meth:`load` read.

        Args:
            model: for its configuration.
            state: all weights, by the model's own names.
            folder: a directory, which is made.
        """
        ...

    def encode(self, processor: Any, clip: Clip) -> Tensors:
        """A clip as the towers take it, on the host; exactly what vLLM's processor makes of it."""
        ...

    def features(self, model: Any, inputs: Sequence[Tensors]) -> list[Tensors]:
        """What the towers make of clips from :meth:`encode`, on the towers' device; with gradient where enabled."""
        ...

    def call(self, model: Any, bare: Any, batch: Tensors, seen: Sequence[Tensors], raw: Sequence[Tensors] = ()) -> Any:
        """Run the wrapped model on a batch, and give its output (transformers').

        Its ``logits`` may have fewer columns than there are tokens, those at the right end (``logits_to_keep`` in
        ``batch``), or all of them.

        Args:
            model: wrapped or not.
            bare: the model itself.
            batch: ``input_ids [B, L]``, ``attention_mask``, ``position_ids [3, B, L]``, ``logits_to_keep``; the cache
                isn't used unless ``use_cache`` is in it.
            seen: features from :meth:`features` of the clips of the batch's lines, in their order.
            raw: in their place what :meth:`encode` gave, for towers that can only run inside the wrapped model.
        """
        ...

    def wire_name(self, name: str) -> str | None:
        """The checkpoint's name of a weight, by which vLLM loads it, from the model's own; None: it isn't sent."""
        ...
