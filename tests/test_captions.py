import json
import pickle
import sqlite3
import time
from dataclasses import replace

import pytest

from ravst_ray.annotate.caption_frames import spread
from ravst_ray.annotate.captions import AnalyzeCaptions, build_captions, check_llm
from ravst_ray.config.annotate import LLMConfig
from ravst_ray.core.prompts import (
    NO_SOURCE,
    candidate_names,
    caption_messages,
    clean_name,
    clean_objects,
    objects_schema,
    parse_objects,
    render_objects,
)
from ravst_ray.core.replies import MalformedAnswer
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.language.cache import LLMCache, cache_key
from ravst_ray.language.chat import Breaker, ChatClient
from ravst_ray.records import Event, EventAnnotation, Frames, SceneObject, Video, VideoItem
from tests.fake_endpoint import FakeEndpoint, Reply, completion, error, objects

DOG = {"dog": True, "red_sofa": False}


def item(*captions, video_id="v", label="dog barking", frames=None):
    events = tuple(Event(n, 4.0 * n - 3.0, 4.0 * n - 1.0, label, 0, text) for n, text in enumerate(captions, 1))
    annotations = tuple(EventAnnotation(event) for event in events)
    return VideoItem(Video(video_id, "v.mp4", 20.0, events), annotations=annotations, frames=frames)


def objects_of(annotation):
    """What was read, without what the events that meet made of it."""
    return tuple(replace(thing, heard_in=()) for thing in annotation.objects)


def step_for(endpoint, cache=None, retries=0, breaker=None, **settings):
    config = LLMConfig(backend="openai", base_url=endpoint.base_url, timeout_s=30.0, max_retries=retries, **settings)
    chat = ChatClient(config.model, endpoint.base_url, "k", config.concurrency, config.timeout_s, retries)
    chat.breaker = breaker or chat.breaker
    return AnalyzeCaptions(config, chat, cache)


def set_aside(done):
    """The reasons of events that are set aside; None of one that lives."""
    assert all(one.objects == () and one.status == "rejected" for one in done.annotations if not one.live)
    return [None if one.live else ",".join(one.reasons) for one in done.annotations]


# --- prompts and answers ---


def test_parse_is_the_inverse_of_render():
    things = [SceneObject("red drum", True), SceneObject('Glocke "4"', False)]
    assert parse_objects(render_objects(things)) == things
    assert parse_objects(f"```json\n{render_objects(things)}\n```") == things


ONE = render_objects([SceneObject("dog", True)])


@pytest.mark.parametrize(
    "text",
    [
        f"<think></think>{ONE}",
        f'<think>a cat? {{"objects": []}} no</think>\n\n{ONE}',
        f"```json {ONE} ```",
        f"```{ONE}```",
        f"Here is the answer: {ONE}",
        f"{ONE}\nThe dog barks {{loudly}}.",
        f'{{not}} {{"note": "it is {{"}} {ONE} {{"objects": []}}',
        ONE.replace('"objects"', '"seen": 12345678901234567890, "objects"'),
    ],
)
def test_an_answer_is_found_in_what_is_around_it(text):
    assert parse_objects(text) == [SceneObject("dog", True)]


def test_no_object_is_an_answer():
    assert parse_objects('{"objects": []}') == []
    assert objects_schema(["dog"])["properties"]["objects"]["minItems"] == 0
    assert [answer["content"] for answer in caption_messages("x")[2:-1:2]].count('{"objects": []}') == 1


@pytest.mark.parametrize("text", ['{"a":', '{"', "{", '{"a": 1}', '["{"', '{"k": "\\"', "<think>", '{"a": [{}, '])
def test_a_long_text_is_read_in_no_time(text):
    """Half a megabyte; one look back over it for each brace would take minutes."""
    began = time.process_time()
    with pytest.raises(MalformedAnswer):
        parse_objects(text * (500_000 // len(text)))
    assert time.process_time() - began < 5.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"<think>perhaps {ONE}",
        f"<think>well</think> hm <think>{ONE}",
        f'{{"answer": {ONE}}}',
        "a dog",
        "[]",
        '{"objects": {}}',
        '{"objects": [{"name": "dog"}]}',
        '{"objects": [{"name": "dog", "audibility": "loud"}]}',
        '{"objects": [{"name": 3, "audibility": "visible only"}]}',
        '{"objects": [{"name": "dog", "audibility": "visible only"}',
        "[" * 100_000,
    ],
)
def test_malformed_answers_are_refused(text):
    with pytest.raises(MalformedAnswer):
        parse_objects(text)


def test_clean_name():
    assert clean_name("  The  Silent Blue-Bell. ") == "blue-bell"
    assert clean_name("A man's hat") == "man's hat"
    assert clean_name("the") == ""


def test_clean_objects_drops_what_the_caption_does_not_hold():
    caption = "a black duck near red and blue balls, and a green bell makes a ringing sound"
    said = ["A black duck", "red ball", "blue bell", "cat", "ringing sound", "green bell"]
    kept, dropped = clean_objects([SceneObject(name, False) for name in said], caption)
    assert [thing.name for thing in kept] == ["black duck", "red ball", "green bell"]
    assert dropped == 3  # no "blue … bell" within reach, no cat, and a sound can't be seen


def test_clean_objects_folds_names_of_the_same_words():
    said = [SceneObject("drum", True), SceneObject("red drum", False), SceneObject("Red drum", False)]
    assert clean_objects(said, "a red drum is beating") == ([SceneObject("red drum", True)], 0)
    two = [SceneObject("red drum", True), SceneObject("drum", False)]
    assert clean_objects(two, "a red drum is beating near another drum") == (two, 0)


@pytest.mark.parametrize(
    ("caption", "said", "kept"),
    [
        ("一只棕色的狗对着木栅栏叫,旁边有一只猫。", ["棕色的狗", "木栅栏", "猫", "汽车"], ["棕色的狗", "木栅栏", "猫"]),
        ("女孩在笑,水壶在灰色椅子旁边烧开了", ["女孩", "水壶", "灰椅子", "男孩"], ["女孩", "水壶", "灰椅子"]),
        ("赤いヘリコプターが飛び、男の人がギターを弾く。", ["赤いヘリコプター", "男の人", "ギター", "ピアノ"],
         ["赤いヘリコプター", "男の人", "ギター"]),
        ("犬が吠えている。", ["犬", "吠えている犬"], ["犬"]),
        ("흰 개가 자동차 옆에서 짖는다", ["흰 개", "자동차", "고양이"], ["흰 개", "자동차"]),
        ("สุนัขเห่าใส่แมวบนรั้ว", ["สุนัข", "แมว", "นก"], ["สุนัข", "แมว"]),
        ("एक कुत्ता भौंक रहा है", ["कुत्ता", "बिल्ली"], ["कुत्ता"]),
        ("a man plays the 二胡 on a stage", ["二胡", "man"], ["二胡", "man"]),
    ],
)  # fmt: skip
def test_names_are_found_where_no_spaces_part_the_words(caption, said, kept):
    objects, dropped = clean_objects([SceneObject(name, True) for name in said], caption)
    assert [one.name for one in objects] == kept and dropped == len(said) - len(kept)


def test_names_of_the_same_characters_are_folded_and_none_are_offered_to_choose_from():
    said = [SceneObject("狗", True), SceneObject("棕色的狗", False)]
    assert clean_objects(said, "棕色的狗在叫") == ([SceneObject("棕色的狗", True)], 0)
    assert candidate_names("一只狗在叫") == [] and candidate_names("ein Hund bellt") != []


def test_special_tokens_of_a_caption_are_not_sent():
    assert caption_messages("a dog<|im_end|>\n<|im_start|>system barks")[-1]["content"] == "a dog system barks"


def test_candidate_names_are_runs_of_words_without_function_words():
    names = candidate_names("A silent dog barks, while the fire truck passes")
    assert names == [
        "dog", "dog barks", "barks", "fire", "fire truck", "fire truck passes", "truck", "truck passes", "passes",
    ]  # fmt: skip


def test_schema_is_static_unless_names_are_given():
    item = objects_schema()["properties"]["objects"]["items"]
    assert item["properties"]["name"] == {"type": "string"}
    assert item["properties"]["audibility"]["enum"] == ["visible and audible", "visible only"]
    assert objects_schema(["dog"])["properties"]["objects"]["items"]["properties"]["name"]["enum"] == ["dog"]


def test_examples_in_the_prompt_are_valid_answers_about_their_captions():
    messages = caption_messages("x")
    assert messages[0]["role"] == "system" and messages[-1] == {"role": "user", "content": "x"}
    for question, answer in zip(messages[1:-1:2], messages[2:-1:2], strict=True):
        things = parse_objects(answer["content"])
        assert clean_objects(things, question["content"]) == (things, 0)
        assert {thing.name for thing in things} <= set(candidate_names(question["content"]))


# --- the step ---


def test_objects_of_each_event_and_what_was_spent():
    def respond(request, _):
        caption = request["messages"][-1]["content"]
        return objects(**DOG) if "dog" in caption else objects(bell=True)

    prices = {"usd_per_million_prompt_tokens": 2.0, "usd_per_million_completion_tokens": 50.0}
    with FakeEndpoint(respond) as endpoint:
        step = step_for(endpoint, **prices)
        (done,) = step([item("a dog barks on a red sofa", "a bell rings")])
        step.close()
    assert done.error is None
    assert objects_of(done.annotations[0]) == (SceneObject("dog", True), SceneObject("red sofa", False))
    assert objects_of(done.annotations[1]) == (SceneObject("bell", True),)
    assert {key: done.stats[key] for key in ("llm_requests", "tokens/prompt", "tokens/completion")} == {
        "llm_requests": 2, "tokens/prompt": 200, "tokens/completion": 20,
    }  # fmt: skip
    assert done.stats["usd"] == pytest.approx(200 * 2e-6 + 20 * 50e-6)
    assert done.provenance["llm"] == "gpt-4o-mini"
    request = endpoint.requests[0]
    assert request["temperature"] == 0.0 and request["response_format"]["json_schema"]["schema"] == objects_schema()


def test_the_label_stands_in_for_a_missing_caption():
    with FakeEndpoint(lambda *_: objects(dog=True)) as endpoint:
        step = step_for(endpoint)
        (done,) = step([item(None)])
        (nothing,) = step([item(None, label=" ")])
        step.close()
    assert endpoint.captions() == ["dog barking"]
    assert objects_of(done.annotations[0]) == (SceneObject("dog", True),)
    assert nothing.error is None and set_aside(nothing) == ["no_text"]


def test_a_caption_is_asked_about_once_within_and_across_batches():
    with FakeEndpoint(lambda *_: objects(dog=True)) as endpoint:
        step = step_for(endpoint)
        first = step([item("a dog barks", "a  dog barks", video_id="a"), item("a dog barks", video_id="b")])
        second = step([item("a dog barks", video_id="c")])
        step.close()
    assert len(endpoint.requests) == 1
    assert sum(done.stats.get("llm_requests", 0) for done in first) == 1
    assert sum(done.stats["llm_cache_hits"] for done in first) == 2
    assert second[0].stats["llm_cache_hits"] == 1 and "tokens/prompt" not in second[0].stats
    assert objects_of(second[0].annotations[0]) == (SceneObject("dog", True),)


def test_the_persistent_cache_spares_a_second_run_and_knows_models_apart(tmp_path):
    cache = LLMCache(tmp_path / "out" / "cache.sqlite")
    with FakeEndpoint(lambda *_: objects(dog=True)) as endpoint:
        for model, requests in (("m1", 1), ("m1", 1), ("m2", 2)):
            step = step_for(endpoint, cache, model=model)
            (done,) = step([item("a dog barks")])
            step.close()
            assert objects_of(done.annotations[0]) == (SceneObject("dog", True),)
            assert len(endpoint.requests) == requests
    assert endpoint.requests[-1]["model"] == "m2"


def test_no_more_requests_in_flight_than_configured():
    with FakeEndpoint(lambda *_: Reply(200, objects(dog=True).body, delay_s=0.05)) as endpoint:
        step = step_for(endpoint, concurrency=3)
        done = step([item(f"dog {n}", video_id=str(n)) for n in range(12)])
        step.close()
    assert all(one.error is None for one in done)
    assert endpoint.most_at_once == 3


def test_a_malformed_answer_is_asked_for_again_with_another_seed():
    answers = [completion("a dog, I think"), completion(None), objects(dog=True)]
    with FakeEndpoint(lambda _, number: answers[number]) as endpoint:
        step = step_for(endpoint)
        (done,) = step([item("a dog barks")])
        step.close()
    assert objects_of(done.annotations[0]) == (SceneObject("dog", True),)
    assert done.stats["llm_requests"] == 3
    assert [request["seed"] for request in endpoint.requests] == [0, 1, 2]
    assert [request["temperature"] > 0 for request in endpoint.requests] == [False, True, True]


@pytest.mark.parametrize(
    ("reply", "reason", "retryable"),
    [
        (completion("nonsense"), "llm_malformed", True),
        (Reply(200, b"<html>hello</html>", {"Content-Type": "text/html"}), "llm_malformed", True),
        (Reply(200, b"{broken"), "llm_malformed", True),
        (Reply(200, {"choices": None}), "llm_malformed", True),
        (Reply(200, ["what"]), "llm_malformed", True),
        (error(400, "context length"), "llm_refused", False),
        (error(429), "llm_rate_limited", True),
        (error(503), "llm_unreachable", True),
    ],
)
def test_what_costs_a_video_spares_the_others(reply, reason, retryable):
    def respond(request, _):
        return objects(dog=True) if "dog" in request["messages"][-1]["content"] else reply

    with FakeEndpoint(respond) as endpoint:
        step = step_for(endpoint, concurrency=1)
        bad, good = step([item("a cat meows", video_id="bad"), item("a dog barks", video_id="good")])
        step.close()
    assert (bad.error.stage, bad.error.reason, bad.error.retryable) == ("captions", reason, retryable)
    assert bad.annotations == () and good.error is None
    tries = sum("cat" in caption for caption in endpoint.captions())
    assert tries == (3 if reason == "llm_malformed" else 1)
    assert bad.stats.get("llm_requests", 0) == (3 if tries == 3 else 0)


@pytest.mark.parametrize(
    ("reply", "reason", "tries"),
    [(completion('{"objects": []}'), "nothing_visible", 1), (objects(unicorn=True), "no_objects", 3)],
)
def test_an_event_without_objects_is_set_aside_and_its_video_lives(tmp_path, reply, reason, tries):
    """Only an answer is kept for the next run."""

    def respond(request, _):
        return objects(dog=True) if "dog" in request["messages"][-1]["content"] else reply

    cache = LLMCache(tmp_path / "c.sqlite")
    with FakeEndpoint(respond) as endpoint:
        for runs in (1, 2):
            step = step_for(endpoint, cache)
            (done,) = step([item("thunder", "a dog barks")])
            step.close()
            assert done.error is None and set_aside(done) == [reason, None]
            assert objects_of(done.annotations[1]) == (SceneObject("dog", True),)
            asked = sum("thunder" in caption for caption in endpoint.captions())
            assert asked == (1 if reason == "nothing_visible" else runs * tries)


def test_after_names_of_nothing_an_empty_answer_counts():
    replies = [objects(unicorn=True), completion('{"objects": []}')]
    with FakeEndpoint(lambda _, number: replies[number]) as endpoint:
        step = step_for(endpoint)
        (done,) = step([item("thunder")])
        step.close()
    assert set_aside(done) == ["nothing_visible"] and done.stats["llm_names_dropped"] == 1


def test_events_that_are_context_are_read_but_not_captioned():
    """And a video without annotations gets a bare one for each of its events."""

    def respond(request, _):
        asked = request["messages"][-1]["content"]
        return completion("A dog barks.") if isinstance(asked, list) else objects(dog=True)

    events = (Event(1, 0.0, 2.0, "dog barking"), Event(2, 1.0, 3.0, "dog howling", asked=False))
    frames = Frames((0.0, 1.0, 2.0), 4, 4, (b"a", b"b", b"c"))
    with FakeEndpoint(respond) as endpoint:
        step = step_for(endpoint, write_captions=True, concurrency=1)
        (done,) = step([VideoItem(Video("v", "v.mp4", 9.0, events), frames=frames)])
        step.close()
    assert [one.event.caption for one in done.annotations] == ["A dog barks.", None]
    assert [objects_of(one) for one in done.annotations] == [(SceneObject("dog", True),)] * 2
    texts = [asked for asked in endpoint.captions() if isinstance(asked, str)]
    assert sorted(texts) == ["A dog barks.", "dog howling"] and len(endpoint.requests) == 3


def test_a_caption_that_says_that_the_source_is_out_of_view_needs_no_reading():
    with FakeEndpoint(lambda *_: completion("Nothing in view makes this sound.")) as endpoint:
        step = step_for(endpoint, write_captions=True)
        (done,) = step([item(None, label="thunder", frames=Frames((1.0,), 4, 4, (b"a",)))])
        step.close()
    assert set_aside(done) == ["nothing_visible"] and len(endpoint.requests) == 1
    (text, *_) = endpoint.requests[0]["messages"][0]["content"]
    assert "labelled: thunder." in text["text"] and "in view and silent" in text["text"]
    assert f"write only: {NO_SOURCE}." in text["text"]


@pytest.mark.parametrize(("reply", "words"), [(error(401), "API key"), (error(404), "no such model")])
def test_what_no_request_survives_aborts_the_run(reply, words):
    with FakeEndpoint(lambda *_: reply) as endpoint:
        step = step_for(endpoint)
        with pytest.raises(AbortError, match=words):
            step([item("a dog barks", "a bell rings")])
        step.close()


def test_what_an_endpoint_wanted_otherwise_is_counted_and_the_answer_is_kept(tmp_path):
    """The cache knows the question, not how it was sent: the next run asks nothing."""

    def respond(request, _):
        return objects(dog=True) if "max_completion_tokens" in request else error(400, "'max_tokens' is not supported")

    cache = LLMCache(tmp_path / "c.sqlite")
    with FakeEndpoint(respond) as endpoint:
        for key, value in (("llm_adapted/max_completion_tokens", 1), ("llm_cache_hits", 1)):
            step = step_for(endpoint, cache)
            (done,) = step([item("a dog barks")])
            step.close()
            assert done.error is None and done.stats[key] == value
    assert len(endpoint.requests) == 2 and "llm_adapted/max_completion_tokens" not in done.stats


THOUGHT_AWAY = completion(None, finish_reason="length", reasoning_content='a dog, so {"objects": []}, or')


def test_an_answer_that_was_thought_away_says_so_and_three_of_them_end_the_run():
    with FakeEndpoint(lambda *_: THOUGHT_AWAY) as endpoint:
        step = step_for(endpoint, concurrency=1, max_attempts=2)
        done = step([item("a dog barks"), item("a cat meows")])
        message = "the limit of llm.max_tokens = 256 was hit (a model that thinks uses it up before it answers)"
        assert [one.error.reason for one in done] == ["llm_malformed"] * 2
        assert all(message in one.error.message for one in done)
        with pytest.raises(AbortError, match=r"the first 3 questions got no answer .* so raise llm\.max_tokens"):
            step([item("a bell rings")])
        step.close()
    assert len(endpoint.requests) == 6


def test_silence_after_an_answer_ends_no_run():
    replies = [objects(dog=True), *[completion("<think>hm")] * 4]
    with FakeEndpoint(lambda _, number: replies[number]) as endpoint:
        step = step_for(endpoint, concurrency=1, max_attempts=1)
        done = step([item(f"a dog barks {n}", video_id=str(n)) for n in range(5)])
        step.close()
    assert [one.error and one.error.reason for one in done] == [None, *["llm_malformed"] * 4]
    assert "the thinking never ends" in done[4].error.message


def test_a_failure_that_passes_is_not_remembered():
    replies = [error(503), objects(dog=True)]
    with FakeEndpoint(lambda _, number: replies[number]) as endpoint:
        step = step_for(endpoint)
        (first,), (second,) = step([item("a dog barks")]), step([item("a dog barks")])
        step.close()
    assert first.error.reason == "llm_unreachable" and second.error is None


def test_an_endpoint_that_stays_away_is_not_waited_for():
    with FakeEndpoint(lambda *_: error(503)) as endpoint:
        step = step_for(endpoint, concurrency=1, breaker=Breaker(threshold=3, cooldown_s=60.0))
        done = step([item(f"dog {n}", video_id=str(n)) for n in range(10)])
        step.close()
    assert [one.error.reason for one in done] == ["llm_unreachable"] * 10
    assert len(endpoint.requests) == 3


def test_a_vision_model_writes_missing_captions(tmp_path):
    def respond(request, _):
        asked = request["messages"][-1]["content"]
        return completion("A dog\nbarks.") if isinstance(asked, list) else objects(dog=True)

    frames = Frames((1.0, 2.0, 3.0, 9.0), 4, 4, (b"one", b"two", b"three", b"nine"))
    with FakeEndpoint(respond) as endpoint:
        for _ in range(2):
            step = step_for(endpoint, LLMCache(tmp_path / "c.sqlite"), write_captions=True, caption_frames=2)
            (done,) = step([item(None, frames=frames)])
            step.close()
    assert done.annotations[0].event.caption == "A dog barks."
    assert objects_of(done.annotations[0]) == (SceneObject("dog", True),)
    assert len(endpoint.requests) == 2
    images = [part["image_url"]["url"] for part in endpoint.requests[0]["messages"][0]["content"][1:]]
    assert images == ["data:image/jpeg;base64,b25l", "data:image/jpeg;base64,dGhyZWU="]  # one, three


def test_spread_takes_first_and_last_of_the_event():
    frames = Frames(tuple(map(float, range(10))), 4, 4, tuple(b"%d" % n for n in range(10)))
    event = Event(1, 2.0, 8.0, "x")
    assert spread(frames, event, 3) == [b"2", b"5", b"8"]
    assert spread(frames, event, 1) == [b"2"]
    assert spread(frames, Event(1, 1.96, 2.04, "x"), 99) == [b"2"], "it is sampled at 2.0 s"
    assert spread(frames, Event(1, 0.2, 0.4, "x"), 99) == [], "no other event's frames"


def test_the_step_travels_between_processes(tmp_path):
    with FakeEndpoint(lambda *_: objects(dog=True)) as endpoint:
        step = step_for(endpoint, LLMCache(tmp_path / "c.sqlite"))
        step([item("a dog barks")])
        twin = pickle.loads(pickle.dumps(step))
        (done,) = twin([item("a dog howls")])
        step.close(), twin.close()
    assert objects_of(done.annotations[0]) == (SceneObject("dog", True),)


# --- the cache ---


def test_cache_keeps_and_shares(tmp_path):
    one, two = LLMCache(tmp_path / "c.sqlite"), LLMCache(tmp_path / "c.sqlite")
    one.put("k", "v")
    assert (two.get("k"), two.get("other")) == ("v", None)
    two.put("k", "w")
    assert pickle.loads(pickle.dumps(one)).get("k") == "w"


def test_cache_key_depends_on_every_part():
    keys = {cache_key("m", [{"a": 1}]), cache_key("n", [{"a": 1}]), cache_key("m", [{"a": 2}]), cache_key("m", None)}
    assert len(keys) == 4


def test_a_damaged_cache_is_moved_aside(tmp_path, caplog):
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"this is no database" * 100)
    cache = LLMCache(path)
    cache.put("k", "v")
    cache.close()
    assert sqlite3.connect(path).execute("SELECT key, text FROM answers").fetchall() == [("k", "v")]
    (aside,) = tmp_path.glob("c.sqlite.damaged-*")
    assert aside.read_bytes().startswith(b"this is no database")
    assert "damaged" in caplog.text


def test_a_cache_that_can_not_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = LLMCache(tmp_path / "file" / "c.sqlite")
    cache.put("k", "v")
    assert cache.get("k") is None
    assert caplog.text.count("is off") == 1


# --- configuration ---


def test_check_llm(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        check_llm(LLMConfig(backend="openai"))
    check_llm(LLMConfig(backend="openai", base_url="http://localhost:8000/v1"))
    with pytest.raises(ConfigError, match="no endpoint"):
        check_llm(LLMConfig(backend="openai", base_url="localhost:8000"))
    with pytest.raises(ConfigError, match="would be saved"):
        check_llm(LLMConfig(backend="openai", base_url="http://u:p@localhost/v1"))
    for model_dir in (None, str(tmp_path)):
        with pytest.raises(ConfigError, match="model_dir"):
            check_llm(LLMConfig(model_dir=model_dir))


def test_build_captions_takes_the_key_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with FakeEndpoint(lambda *_: objects(dog=True)) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
        step = build_captions(LLMConfig(backend="openai"), tmp_path / "c.sqlite")
        (done,) = step([item("a dog barks")])
        step.close()
    assert endpoint.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in json.dumps(dict(done.provenance)) + repr(step._chat)
    assert b"sk-secret" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


class MortalServer:
    """A local server that is dead from its first question on until it is revived."""

    def __init__(self, living):
        self.base_url, self.dead, self.revived = "http://127.0.0.1:9/v1", False, 0  # nobody listens there
        self.asked = 0
        self._living = living

    def died(self):
        self.asked += 1
        return self.dead

    def revive(self):
        self.base_url, self.dead, self.revived = self._living.base_url, False, self.revived + 1

    def stop(self):
        pass


def test_a_local_server_that_died_is_revived_and_asked_again():
    """Videos that needed no answer, or had one, aren't asked again."""
    with FakeEndpoint(lambda request, number: objects(**DOG)) as endpoint:
        server = MortalServer(endpoint)
        config = LLMConfig(timeout_s=30.0, max_retries=0)
        chat = ChatClient("local", server.base_url, "k", 1, 30.0, 0)
        step = AnalyzeCaptions(config, chat, server=server)
        server.dead = True
        given = item("a dog", video_id="given")
        event = given.annotations[0].event
        ready = (EventAnnotation(replace(event, given_objects=(SceneObject("dog", True),))),)
        items = [item("a dog barks"), replace(given, annotations=ready), item("a red sofa and a dog")]
        done = step.process_batch(items)
        step.close()
    assert server.revived == 1 and not any(one.error for one in done)
    assert server.asked == 1, "with all answered there is no need: it may take a while to tell"
    assert [one.video.video_id for one in done] == ["v", "given", "v"]
    assert [len(one.annotations[0].objects) for one in done] == [1, 1, 2]
    assert len(endpoint.requests) == 2


def test_a_local_server_that_lives_is_not_revived():
    """An endpoint that stays away for another reason costs the videos, as any endpoint does."""
    with FakeEndpoint(lambda request, number: error(503)) as endpoint:
        server = MortalServer(endpoint)
        chat = ChatClient("local", endpoint.base_url, "k", 1, 30.0, 0)
        step = AnalyzeCaptions(LLMConfig(max_retries=0), chat, server=server)
        (done,) = step.process_batch([item("a dog barks")])
        step.close()
    assert server.revived == 0 and done.error.reason == "llm_unreachable"
