"""Events that meet know of each other's sounds."""

from ravst_ray.annotate.unite import unite
from ravst_ray.records import Event, EventAnnotation, SceneObject


def event(number, start_s, end_s, heard=(), silent=(), asked=True):
    objects = tuple(SceneObject(name, True) for name in heard) + tuple(SceneObject(name, False) for name in silent)
    return EventAnnotation(Event(number, start_s, end_s, "label", asked=asked), objects)


def objects_of(*events):
    return [[(thing.name, thing.audible, thing.heard_in) for thing in one.objects] for one in unite(events)]


def test_an_event_alone_keeps_its_objects():
    assert objects_of(event(1, 0, 9, ["dog"], ["vase"])) == [[("dog", True, (1,)), ("vase", False, ())]]


def test_meeting_events_share_what_sounds():
    found = objects_of(event(1, 0, 5, ["dog"], ["man"]), event(2, 4, 9, ["man"], ["dog", "vase"]))
    assert found == [
        [("dog", True, (1,)), ("man", True, (2,))],
        [("man", True, (2,)), ("dog", True, (1,)), ("vase", False, ())],
    ]


def test_a_name_that_sounds_in_both_is_heard_in_both():
    assert objects_of(event(1, 0, 5, ["A dog"]), event(2, 4, 9, ["the dogs"])) == [
        [("A dog", True, (1, 2))],
        [("the dogs", True, (1, 2))],
    ]


def test_events_that_touch_or_lie_apart_do_not_meet():
    apart = (event(1, 0, 5, ["dog"], ["man"]), event(2, 5.04, 9, ["man"], ["dog"]))
    assert objects_of(*apart) == [
        [("dog", True, (1,)), ("man", False, ())],
        [("man", True, (2,)), ("dog", False, ())],
    ]


def test_a_silent_thing_that_may_be_what_sounds_meanwhile_is_left_out():
    found = objects_of(event(1, 0, 5, ["dog"], ["old man", "red bell"]), event(2, 1, 2, ["man", "blue bell"]))
    assert found[0] == [
        ("dog", True, (1,)),
        ("red bell", False, ()),
        ("man", True, (2,)),
        ("blue bell", True, (2,)),
    ]
    same_event = objects_of(event(1, 0, 5, ["man"], ["old man", "man"]))
    assert same_event == [[("man", True, (1,)), ("old man", False, ())]]


def test_a_name_has_the_number_of_what_sounds():
    """Named first is the silent dog; those that bark are the dogs."""
    assert objects_of(event(1, 0, 5, ["dogs"]), event(2, 1, 2, silent=["dog"]))[1] == [("dogs", True, (1,))]


def test_people_are_told_apart_by_no_number_and_no_kind():
    found = objects_of(event(1, 0, 5, ["dog"], ["old man", "people", "woman"]), event(2, 1, 2, ["two men", "boy"]))
    assert [name for name, audible, _ in found[0] if not audible] == ["woman"]


def test_an_event_of_no_length_meets_what_goes_on_around_it():
    """From 3.02 to 3.04 s a man cries out: he isn't silent from 0 to 9."""
    blink, longer = event(1, 3.02, 3.04, ["man"]), event(2, 0, 9, ["dog"], ["man"])
    assert objects_of(blink, longer)[1] == [("dog", True, (2,)), ("man", True, (1,))]
    before = event(2, 0, 3.01, ["dog"], ["man"])
    assert objects_of(blink, before)[1] == [("dog", True, (2,)), ("man", False, ())]


def test_what_sounds_in_an_event_that_is_not_asked_about_counts():
    asked, context = unite((event(1, 0, 5, ["dog"], ["man"]), event(2, 1, 2, ["man"], asked=False)))
    assert asked.objects[1] == SceneObject("man", True, (2,))
    assert not context.event.asked


def test_an_event_that_was_set_aside_stays_without_objects():
    nothing = event(1, 0, 5)
    assert unite((nothing, event(2, 1, 2, ["man"])))[0] is nothing
