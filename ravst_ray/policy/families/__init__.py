"""The model families that can be asked and trained: the registry, and what of a configuration the family decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravst_ray.errors import ConfigError
from ravst_ray.models.pretrained import model_type
from ravst_ray.policy.families.protocols import Family, LearnerSide
from ravst_ray.policy.families.qwen2_5_omni import Qwen25Omni
from ravst_ray.policy.families.qwen2_5_vl import Qwen25VL
from ravst_ray.policy.families.qwen3_vl import Qwen3VL, Qwen3VLMoe

if TYPE_CHECKING:
    from ravst_ray.config.video_llm import FramesConfig, PromptConfig

FAMILIES: tuple[Family, ...] = (Qwen25VL(), Qwen3VL(), Qwen3VLMoe(), Qwen25Omni())


def family_of(model: str, key: str = "model") -> Family:
    """The family of a model, by the ``model_type`` in its ``config.json``.

    Args:
        model: hub name or directory.
        key: the configuration key that it came from, for the message.

    Raises:
        ConfigError: there is no such model, or its family isn't known.
    """
    kind = model_type(model, key)
    for family in FAMILIES:
        if kind in family.model_types:
            return family
    known = ", ".join(f"{one.name} ({', '.join(one.model_types)})" for one in FAMILIES)
    raise ConfigError(f"{key}: {model} is a {kind}; this runs {known}")


def side_of(model: Any) -> LearnerSide:
    """The learner's side of a model that is loaded."""
    kind = model.config.model_type
    return next(family.learner() for family in FAMILIES if kind in family.model_types)


def fit(frames: FramesConfig, prompt: PromptConfig, family: Family) -> tuple[FramesConfig, PromptConfig]:
    """What is shown and asked, with all that a family decides in it; done once, by the driver.

    Args:
        frames: as configured.
        prompt: as configured.
        family: of the model.

    Raises:
        ConfigError: the family can't be shown or asked this, or there is no such task.
    """
    from ravst_ray.tasks import TASKS

    if prompt.as_task is not None and prompt.as_task not in TASKS:
        raise ConfigError(f"prompt.as_task is {prompt.as_task!r}; tasks are {', '.join(TASKS)}")
    multiple = family.frame_multiple
    if frames.multiple not in (None, multiple):
        raise ConfigError(f"frames.multiple is {frames.multiple}; {family.name} takes multiples of {multiple}")
    sound = frames.sound
    if sound == "auto":
        sound = "own" if family.hears else "none"
    if sound != "none" and not family.hears:
        raise ConfigError(f"frames.sound is {sound}, but {family.name} is deaf; leave it at auto, or take none")
    most = frames.max_step_s if sound == "none" else min(frames.max_step_s or family.max_step_s, family.max_step_s)
    if most is not None and frames.step_s > most:
        hint = f"set frames.step_s={most:g}" + (" or frames.sound=none" if sound != "none" else "")
        raise ConfigError(f"frames.step_s is {frames.step_s:g}; {family.name} takes at most {most:g} s here: {hint}")
    space = family.box_space if prompt.box_space == "auto" else prompt.box_space
    return (
        frames.model_copy(update={"multiple": multiple, "sound": sound, "max_step_s": most}),
        prompt.model_copy(update={"box_space": space}),
    )
