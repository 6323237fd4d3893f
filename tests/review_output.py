"""A small output of an annotation run, with known tracks, judged and asked about by the steps themselves."""

from dataclasses import replace
from pathlib import Path

from ravst_ray.annotate.quality import CheckQuality
from ravst_ray.annotate.questions import MakeQuestions
from ravst_ray.annotate.unite import unite
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.base import dump_config
from ravst_ray.datasets.schemas import rows_of
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.records import Event, EventAnnotation, Loudness, SceneObject, Track, Video, VideoItem, VideoMeta

DURATION_S = 12.0
SIZE = 256, 256


def track(number, name, audible, times_s, left=10.0, score=0.9) -> Track:
    """A box of 40 x 20 that moves right by 4 pixels a second."""
    boxes = tuple((left + 4 * t, 50.0, left + 40 + 4 * t, 70.0) for t in times_s)
    return Track(number, name, audible, times_s, boxes, (score,) * len(times_s), None, (True,) * len(times_s))


def two_events() -> tuple[EventAnnotation, ...]:
    """A man speaks beside a drum from 1 to 5 s, a bell rings from 4 to 8 s: they meet. Then a cat, not asked about."""
    first, second = (1.0, 2.0, 3.0, 4.0, 5.0), (4.0, 5.0, 6.0, 7.0, 8.0)
    return unite(
        [
            EventAnnotation(
                Event(1, 1.0, 5.0, "man speaking", 3, "a man speaks"),
                (SceneObject("man", True), SceneObject("drum", False)),
                first,
                (track(1, "man", True, first), track(2, "drum", False, first[:4], 90.0)),
            ),
            EventAnnotation(
                Event(2, 4.0, 8.0, "bell ringing", 4, None),
                (SceneObject("bell", True),),
                second,
                (track(1, "bell", True, second, 150.0), track(2, "man", True, second[:2])),
            ),
            EventAnnotation(Event(3, 9.0, 11.0, "cat meowing", 5, None, None, False), (SceneObject("cat", True),)),
        ]
    )


def item(video_id: str, annotations=None, **changes) -> VideoItem:
    """A finished item. The sound is loud from 0 to 8 s and silent afterwards."""
    annotations = two_events() if annotations is None else annotations
    level = Loudness(0.1, (-20.0,) * 80 + (-100.0,) * 40)
    meta = replace(VideoMeta(DURATION_S, 10.0, *SIZE, True, "pyav"), **changes)
    made = VideoItem(
        Video(video_id, f"{video_id}.mp4", DURATION_S, ()),
        meta,
        level,
        annotations=annotations,
        provenance={"frame_step_s": "1"},
    )
    (made,) = CheckQuality(config().quality)([made])
    (made,) = MakeQuestions(config().questions)([made])
    return made


def config(videos: str = "videos", output: str = "out") -> AnnotateConfig:
    """Of the run."""
    return AnnotateConfig.model_validate({"input": {"annotations": "a.json", "videos": videos}, "output": output})


def write_output(root: str, items, videos: str = "videos", compact: bool = True) -> DatasetStore:
    """An output with these items."""
    store = DatasetStore(root)
    store.prepare()
    store.write_bytes("config.yaml", dump_config(config(str(videos), root)).encode())
    for one in items:
        store.commit(one.video.video_id, rows_of(one, 0, 0.5), one.stats)
    if compact:
        store.compact()
    return store


def rows(one: VideoItem):
    """The rows of an item as a reader of the output gets them: annotations, qa, and that of the video."""
    made = rows_of(one, 0, 0.5)
    return made["annotations"], made["qa"], made["videos"][0]


def copy_videos(source: Path, folder: Path, *video_ids: str) -> Path:
    """Real files for these ids."""
    folder.mkdir(exist_ok=True)
    for video_id in video_ids:
        (folder / f"{video_id}.mp4").write_bytes(source.read_bytes())
    return folder
