"""The learner's side of families that see and are deaf, which transformers has in one form."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.protocols import Tensors


class Shows(Protocol):
    """What is needed of a family: how its processor is told of a video."""

    processor_kwargs: dict[str, Any]

    def metadata(self, frames: int, step_s: float) -> dict[str, Any]:
        """For vLLM; transformers' processor takes all but ``do_sample_frames``."""
        ...


class VLLearner:
    """See :class:`~ravst_ray.policy.families.protocols.LearnerSide`; ``model_class`` is transformers'."""

    model_class: str
    sharded_layers: tuple[str, ...]
    towers: tuple[str, ...] = ("model.visual",)
    adapter_scope = r".*language_model.*\.({targets})"

    def __init__(self, family: Shows):
        self.family = family

    def load(self, source: str, dtype: Any) -> Any:
        """See :meth:`LearnerSide.load`."""
        import transformers

        return getattr(transformers, self.model_class).from_pretrained(source, dtype=dtype)

    def empty(self, source: str, dtype: Any) -> Any:
        """See :meth:`LearnerSide.empty`."""
        import transformers

        return without_weights(getattr(transformers, self.model_class), source, dtype)

    def save(self, model: Any, state: Tensors, folder: Any) -> None:
        """See :meth:`LearnerSide.save`."""
        model.save_pretrained(folder, state_dict=dict(state))

    def encode(self, processor: Any, clip: Clip) -> Tensors:
        """``pixels [patches, D]`` and ``grid [3]``."""
        metadata = self.family.metadata(len(clip.frames), clip.step_s)
        del metadata["do_sample_frames"]
        made = processor.video_processor(
            videos=[self.frames(clip)],
            video_metadata=[metadata],
            do_sample_frames=False,
            return_tensors="pt",
            **self.family.processor_kwargs,
        )
        return {"pixels": made["pixel_values_videos"], "grid": made["video_grid_thw"][0]}

    def frames(self, clip: Clip) -> np.ndarray:
        """As the processor takes them."""
        return clip.frames

    def features(self, model: Any, inputs: Sequence[Tensors]) -> list[Tensors]:
        """Of each clip ``video [tokens, D]``, and what else :meth:`split` finds."""
        return self.split(model.model.get_video_features(**_joined(inputs), return_dict=True))

    def split(self, made: Any) -> list[Tensors]:
        """The towers' output by clip."""
        return [{"video": one} for one in made.pooler_output]

    def joined(self, seen: Sequence[Tensors]) -> Any:
        """The inverse of :meth:`split`."""
        return SimpleNamespace(pooler_output=[one["video"] for one in seen])

    def call(self, model: Any, bare: Any, batch: Tensors, seen: Sequence[Tensors], raw: Sequence[Tensors] = ()) -> Any:
        """See :meth:`LearnerSide.call`."""
        extra: dict[str, Any] = _joined(raw) if raw else {}
        if seen:
            extra = {"mm_encoder_outputs": {"video": self.joined(seen)}}
        return model(**{"use_cache": False, **batch}, **extra)

    def wire_name(self, name: str) -> str | None:
        """The same."""
        return name


def without_weights(model_class: Any, source: str, dtype: Any) -> Any:
    """A model of transformers on the ``meta`` device."""
    import torch

    config = model_class.config_class.from_pretrained(source)
    with torch.device("meta"):
        return model_class._from_config(config, dtype=dtype)


def _joined(inputs: Sequence[Tensors]) -> dict[str, Any]:
    import torch

    return {
        "pixel_values_videos": torch.cat([one["pixels"] for one in inputs]),
        "video_grid_thw": torch.stack([one["grid"] for one in inputs]),
    }
