"""What a run's summary counts of its rows and of each video's numbers."""

from ravst_ray.annotate.summary import summarise
from ravst_ray.annotate.unite import unite
from ravst_ray.datasets.schemas import annotation_from_row, rows_of
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.records import STATUSES, Event, EventAnnotation, QAPair, SceneObject, Video, VideoItem


def test_objects_are_counted_where_they_are_named_and_questions_by_status_and_reason(tmp_path):
    dog, man, vase = (SceneObject(name, audible) for name, audible in (("dog", True), ("man", True), ("vase", False)))
    named = (
        EventAnnotation(Event(1, 0.0, 9.0, "dog barking"), (dog, vase)),
        EventAnnotation(Event(2, 2.0, 8.0, "man speaking"), (man,)),
        EventAnnotation(Event(3, 3.0, 8.0, "thunder", asked=False), (SceneObject("cloud", True),)),
    )
    questions = tuple(
        QAPair(f"v/1/AVTR/{number}", "v", 1, "AVTR", "When?", "<answer>\n</answer>", status)
        for number, status in enumerate((*STATUSES, "suspect"))
    )
    item = VideoItem(Video("v", "v.mp4", 9.0, ()), annotations=unite(named), qa=questions)
    item = item.with_stats(**{"left_out/repeated": 2.0, "left_out/crowd": 1.0, "frames_decoded": 7.0})
    item = item.with_stats(**{"llm_adapted/no_seed": 3.0})
    store = DatasetStore(str(tmp_path))
    store.prepare()
    store.commit("v", rows_of(item, seed=0, test_share=0.0), item.stats)
    summary = summarise(store, store.compact([]), [], wall_s=1.0, exported=["accepted"])
    assert (summary["events"], summary["objects"], summary["share_audible"]) == (2, 3, 0.6667)
    assert summary["questions_left_out"] == {"repeated": 2, "crowd": 1}
    assert summary["questions"] == {"AVTR": 3}, "accepted and suspect"
    assert summary["split"] == {"train": {"videos": 1, "AVTR": 1}, "test": {"videos": 0}}, "what is in the files"
    assert summary["export"] == {"statuses": ["accepted"], "left_out": {"suspect": 2, "rejected": 1}}
    assert summary["llm_adaptations"] == ["no_seed"]
    rows = [annotation_from_row(row) for row in store.rows("annotations")]
    assert [[(o.name, o.heard_in) for o in row.objects] for row in rows] == [
        [("dog", (1,)), ("vase", ()), ("man", (2,)), ("cloud", (3,))],
        [("man", (2,)), ("dog", (1,)), ("cloud", (3,))],
    ]
