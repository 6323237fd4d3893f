"""The prompt of a question: what the frames are, the question, and how its task wants the answer written.

(frames of a video) -> VideoView -> question_prompt -> (a model) -> Task.to_video -> an answer as in the dataset
"""

from __future__ import annotations

from ravst_ray.config.video_llm import PromptConfig
from ravst_ray.records import VideoView
from ravst_ray.tasks import task_of


def question_prompt(task: str, question: str, view: VideoView, config: PromptConfig) -> str:
    """The text beside the frames: what they are, the question, and the grammar of the answer."""
    if config.verbatim:
        return verbatim_prompt(question, view, config)
    lines = [
        f"{view.frames} frames of a video of {view.duration_s:g} s, one every {view.step_s:g} s from 0 s on, "
        f"each {view.width} x {view.height} pixels.",
        question,
    ]
    if config.state_grammar:
        lines += task_of(task).form(view, config)
    return "\n".join(lines)


def verbatim_prompt(question: str, view: VideoView, config: PromptConfig) -> str:
    """The question alone; behind it, with ``as_task`` or ``think``, how to think and answer."""
    if config.as_task:
        return "\n".join([question, *task_of(config.as_task).form(view, config)])
    thought = "Think first, inside <think></think>, then give the answer alone inside <answer></answer>."
    return f"{question}\n{thought}" if config.think else question
