"""What crosses process borders survives the crossing: errors, steps, configurations, items."""

import ast
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from ravst_ray import errors
from ravst_ray.annotate.caption_frames import CaptionFrames
from ravst_ray.annotate.captions import AnalyzeCaptions
from ravst_ray.annotate.decode import DecodeFrames
from ravst_ray.annotate.grounding import Ground
from ravst_ray.annotate.quality import CheckQuality
from ravst_ray.annotate.questions import MakeQuestions
from ravst_ray.annotate.step import Step
from ravst_ray.config.annotate import AnnotateConfig, DecodeConfig, GroundingConfig, LLMConfig, QualityConfig
from ravst_ray.errors import (
    AbortError,
    BadBatchError,
    BrokenTransferError,
    ConfigError,
    RavstError,
    StepError,
    WorkerDiedError,
)
from ravst_ray.language.chat import ChatClient
from ravst_ray.records import (
    ErrorRow,
    Event,
    EventAnnotation,
    Frames,
    Loudness,
    QAPair,
    SceneObject,
    Track,
    Video,
    VideoItem,
    VideoMeta,
)

PACKAGE = Path(errors.__file__).parent
RAISED = [
    RavstError("something is wrong"),
    ConfigError("labels.json: no such file"),
    AbortError("the disk is full"),
    BadBatchError("the loss is nan in step 3"),
    WorkerDiedError("learner worker 0 died"),
    BrokenTransferError("join_transfer: it died"),
    StepError("no_video_stream", "The file has no video stream."),
    StepError("llm_unreachable", "The endpoint is down.", retryable=True),
]


def class_names(base: str) -> set[str]:
    """Classes of the package that name ``base`` as a base, read from the source."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and base in {ast.unparse(one) for one in node.bases}:
                found.add(node.name)
    return found


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))


def test_every_error_has_the_one_root_and_is_tried_here():
    ours = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BaseException)}
    assert all(issubclass(kind, RavstError) for kind in ours)
    assert ours == {type(error) for error in RAISED}
    elsewhere = set().union(*(class_names(kind.__name__) for kind in ours)) - {kind.__name__ for kind in ours}
    assert elsewhere == set(), "errors of this root live in errors.py"


def test_a_step_error_tells_its_reason():
    error = StepError("no_audio", "There is no audio.", retryable=True)
    assert (error.reason, error.message, error.retryable, str(error)) == (
        "no_audio",
        "There is no audio.",
        True,
        "There is no audio.",
    )


STEPS = [
    CaptionFrames(DecodeConfig(step_s=0.5), 3),
    DecodeFrames(DecodeConfig(step_s=0.5)),
    AnalyzeCaptions(LLMConfig(backend="openai"), ChatClient("m", "http://127.0.0.1:9/v1", "none", 1, 1.0, 0)),
    Ground("a detector", "a segmenter", GroundingConfig(box_threshold=0.25)),  # type: ignore[arg-type]
    MakeQuestions(),
    CheckQuality(QualityConfig(min_score=0.9)),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_steps_survive_pickling(step):
    back = pickle.loads(pickle.dumps(step))
    assert type(back) is type(step) and back.stage == step.stage != ""
    assert vars(back).keys() == vars(step).keys()
    configs = {key: value for key, value in vars(step).items() if key.endswith("config")}
    assert {key: vars(back)[key] for key in configs} == configs


def test_every_step_is_tried_here():
    assert class_names("Step") - {"Letting"} == {type(step).__name__ for step in STEPS}  # Letting wraps one of these


def item():
    dog = SceneObject("dog", True)
    event = Event(1, 0.1, 2.3, 'label "x" ünïcode', 4, "a caption", (dog,))
    track = Track(3, "dog", True, (0.1, 1.1), ((0.0, 1.0, 2.0, 3.5), (0.1, 1.0, 2.0, 3.0)), (0.5, 0.75), ("rle", "rle"))
    annotation = EventAnnotation(
        event, (SceneObject("dog", True),), (0.1, 1.1, 2.1), (track,), "suspect", ("tiny_box",)
    )
    return VideoItem(
        Video("id with 'quotes'", "/x/y.mp4", 12.5, (event,), "train"),
        VideoMeta(12.4, 29.97, 640, 360, True, "pyav"),
        Loudness(0.1, (-100.0, -20.5)),
        Frames((0.1, 1.1), 320, 180, (b"\x00\xff\xd8", b"")),
        (annotation,),
        (QAPair("id/1/AVTR/0", "id", 1, "AVTR", "When?", "<answer>\n</answer>"),),
        {"detector": "tiny"},
        {"frames": 2.0},
    )


def test_items_survive_pickling_and_the_way_through_a_row():
    for one in (item(), replace(item(), frames=None, error=ErrorRow("v", "decode", "broken", "It is broken.", True))):
        assert pickle.loads(pickle.dumps(one)) == one
        assert VideoItem.from_row(one.to_row()) == one


def test_configurations_survive_pickling():
    config = AnnotateConfig.model_validate(
        {"input": {"annotations": "a.json", "videos": "v"}, "output": "o", "actors": {"ground": {"max": 3}}}
    )
    assert pickle.loads(pickle.dumps(config)) == config
    for name in type(config).model_fields:
        assert pickle.loads(pickle.dumps(getattr(config, name))) == getattr(config, name)


class Picky(Step):
    """Fails on one video, and for a reason of ours on another."""

    stage = "picky"

    def process(self, item):
        if item.video.video_id == "bad":
            raise StepError("bad_video", "It is bad.", retryable=True)
        if item.video.video_id == "bug":
            raise ZeroDivisionError
        return replace(item, provenance={"seen": item.video.video_id})


def bare(video_id, **more):
    return VideoItem(Video(video_id, "x.mp4", 1.0, ()), **more)


def test_a_step_turns_a_step_error_into_a_row_and_keeps_the_order():
    before = ErrorRow("old", "decode", "missing_file", "It is missing.", False)
    old = bare("old", error=before)
    first, bad, passed, last = Picky()([bare("a"), replace(item(), video=bare("bad").video), old, bare("b")])
    assert (first.provenance, last.provenance) == ({"seen": "a"}, {"seen": "b"})
    assert passed is old
    assert bad.error == ErrorRow("bad", "picky", "bad_video", "It is bad.", True)
    assert (bad.frames, bad.loudness, bad.annotations, bad.qa) == (None, None, (), ())
    assert all(one.stats["seconds/picky"] >= 0 for one in (first, bad, last)) and "seconds/picky" not in passed.stats


def test_any_other_exception_is_raised():
    with pytest.raises(ZeroDivisionError):
        Picky()([bare("a"), bare("bug")])
    assert Picky()([]) == []
