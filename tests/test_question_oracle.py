"""Questions of random annotations, nastier than any video, held against what the annotations claim.

Each question is read from its text, and its answer is looked for again in the claims of single events: which names
sound in it, and where its tracks have boxes. Nothing of the code that wrote it is used for that.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

from ravst_ray.annotate.questions import questions_of
from ravst_ray.annotate.unite import unite
from ravst_ray.config.annotate import QuestionsConfig
from ravst_ray.core.answers import parse
from ravst_ray.core.frame_times import event_times
from ravst_ray.records import STATUSES, Event, EventAnnotation, SceneObject, Track
from ravst_ray.toyworld.asked import read_question

CASES = 300
SLACK_S = 0.0501  # times are told to 0.1 s
SAME = 0.1001  # moments so close are one

# Whom or what a name may mean: names that share a letter may mean the same.
MEANS = {
    "man": "ab", "A man": "ab", "old man": "a", "two men": "ab", "men": "ab", "child": "c", "boy": "c",
    "dog": "d", "The dog": "d", "dogs": "d", "brown dog": "d", "red drum": "e", "blue drum": "f", "犬": "g",
    "老犬": "g", "🐕": "h", "🐈": "i", 'the "big" vase {x}?': "j",
}  # fmt: skip
VARIANTS = {"A man": "man", "The dog": "dog"}  # the same name, written otherwise


@dataclass
class Case:
    """A video: its events' own claims, and the events as they come to the question step."""

    claims: dict[int, tuple[SceneObject, ...]]
    events: tuple[EventAnnotation, ...]
    end_s: float
    rules: QuestionsConfig

    def sounding(self):
        """(name, start, end, event) of each claim that something sounds."""
        for one in self.events:
            for thing in self.claims[one.event.event_num]:
                if thing.audible:
                    yield thing.name, one.event.start_s, one.event.end_s, one

    def seen(self, name, start, end):
        """Whether an event that claims its sound has a box of a name between two times."""
        return any(
            same(track.name, name) and start <= time_s <= end
            for one in self.events
            if any(thing.audible and same(thing.name, name) for thing in self.claims[one.event.event_num])
            for track in one.tracks
            for time_s in track.times_s
        )


def same(one, other):
    return VARIANTS.get(one, one) == VARIANTS.get(other, other)


def may_be_same(one, other):
    return bool(set(MEANS[one]) & set(MEANS[other]))


def make_case(number):
    """One to five events that overlap, touch, nest, are equal, end after the file, or were set aside."""
    chance = random.Random(number)
    end_s = chance.choice((10.0, 8.27))
    ends = sorted(chance.sample((0, 1, 1.449, 1.451, 2.5, 3.02, 4, 5, 5.95, 7, 7.96, 8.1, 8.6), 5))
    names = chance.sample(list(MEANS), 3)
    views = {name: chance.choice(((0, 99), (0, 99), (3, 99), (0, 4), (50, 60))) for name in MEANS}
    pairs = [*combinations(ends, 2), *pairwise(ends), *pairwise(ends)]  # more short ones, so that a name comes again
    spans = sorted(chance.choices(pairs, k=chance.randint(1, 5)))
    claims, bare = {}, []
    for place, (start, end) in enumerate(spans, start=1):
        event = Event(place, start, end, "a sound", asked=place <= chance.choice((2, 9)))
        named = [SceneObject(name, chance.random() < 0.6) for name in chance.sample(names, 2)]
        things = {MEANS[thing.name]: thing for thing in named}  # a caption calls one thing by one name
        claims[place] = tuple(things.values()) if chance.random() < 0.9 else ()
        aside = {} if claims[place] else {"status": "rejected", "reasons": ("nothing_visible",)}
        bare.append(EventAnnotation(event, claims[place], **aside))
    step_s = chance.choices((1.0, 0.5, 0.05), (12, 4, 1))[0]
    events = tuple(filmed(one, views, step_s, end_s, chance) if one.live else one for one in unite(bare))
    when, repeated = chance.choice(("event", "visible")), chance.choice(("ordinal", "ordinal", "window", "skip"))
    return Case(claims, events, end_s, QuestionsConfig(when=when, repeated=repeated, max_answer_tokens=100_000))


def filmed(one, views, step_s, end_s, chance):
    times = tuple(t for t in event_times(one.event.start_s, one.event.end_s, step_s) if t < end_s)
    tracks = []
    for thing in one.objects:
        since, until = views[VARIANTS.get(thing.name, thing.name)]
        if seen := tuple(t for t in times if since <= t <= until):
            boxes = ((0.0, 0.0, 9.0, 9.0),) * len(seen)
            tracks.append(Track(len(tracks), thing.name, thing.audible, seen, boxes, (0.9,) * len(seen)))
    status = chance.choice(("accepted", "accepted", "suspect")) if tracks else "rejected"
    return replace(one, frame_times_s=times, tracks=tuple(tracks), status=status)


def moments_of(case, name):
    """When a name sounds: (start, end, events), the claims that touch made one."""
    found = []
    for _, start, end, one in sorted(
        (claim for claim in case.sounding() if same(claim[0], name)), key=lambda claim: claim[1:3]
    ):
        if found and round(start, 1) - round(found[-1][1], 1) <= SAME:
            found[-1] = (found[-1][0], max(found[-1][1], end), [*found[-1][2], one])
        else:
            found.append((start, end, [one]))
    return found


def spans_of(case, name):
    """The moments of a name as they are told."""
    return [(round(start, 1), round(end, 1)) for start, end, _ in moments_of(case, name)]


def temporal_faults(case, asked, answer, status):
    """Of a question for a moment: is it one moment, this one, and as sure as its events?"""
    (one,) = answer.objects
    others = {other for other, *_ in case.sounding() if may_be_same(other, asked.name) and not same(other, asked.name)}
    if one.where is None and case.rules.when == "event":  # then either has the same answer
        others = {other for other in others if spans_of(case, other) != spans_of(case, asked.name)}
    if others:
        yield "another name may mean it"
    moments = moments_of(case, asked.name)
    before = moments[: asked.ordinal or 0]
    if asked.window:
        since, until = asked.window
        moments = [m for m in moments if min(m[1], until) - max(m[0], since) > SLACK_S]
    if not all(case.seen(asked.name, start - SLACK_S, end + SLACK_S) for start, end, _ in before):
        yield "counts a moment that isn't known to be seen"
    if asked.ordinal:
        moments = moments[asked.ordinal - 1 : asked.ordinal]
    if len(moments) != 1:
        yield f"{len(moments)} moments"
        return
    start, end, events = moments[0]
    end = min(end, case.end_s)
    if not start - SLACK_S <= one.when[0] < one.when[1] <= end + SLACK_S:
        yield "when is not within the moment"
    if case.rules.when == "event" and (one.when[0] > start + SLACK_S or one.when[1] < end - 2 * SLACK_S):
        yield "when is not the moment"
    if case.rules.when == "visible" and not all(other.event.asked for other in events):
        yield "what is seen isn't known"
    if STATUSES.index(status) < max(STATUSES.index(other.status) for other in events):
        yield "more sure than its events"


def spatial_faults(case, asked, answer):
    """Of a question for objects: does all that is listed sound (or nothing of it), and is nothing left out?"""
    start, end = asked.span
    names = [one.name for one in answer.objects]
    near = [(name, max(start, since), min(end, until), one) for name, since, until, one in case.sounding()]
    heard = [claim for claim in near if claim[2] - claim[1] > SLACK_S]
    for listed in names:
        if asked.audible and not any(MEANS[listed] == MEANS[name] and s < e + SLACK_S for name, s, e, _ in near):
            yield f"{listed} is silent"
        for name, _, _, one in heard:
            told_apart = any(same(listed, thing.name) for thing in case.claims[one.event.event_num])
            if not asked.audible and may_be_same(listed, name) and (same(listed, name) or not told_apart):
                yield f"{listed} may be {name}, who sounds"
    for name, since, until, _ in heard if asked.audible else ():
        if case.seen(name, since + SLACK_S, until - SLACK_S) and not any(may_be_same(name, listed) for listed in names):
            yield f"{name} is left out"


def faults_of(case, pair):
    asked, answer = read_question(pair.question), parse(pair.answer)
    if asked is None or answer.malformed:
        return ["unreadable"]
    found = []
    for one in answer.objects:
        start, end = asked.span or one.when
        times = [time_s for time_s, _ in one.where or ()]
        if not 0 <= start < end <= case.end_s:
            found.append("outside the file")
        if one.where is not None and not (times and start <= times[0] and times[-1] <= end):
            found.append("lines outside the interval, or none")
        if any(after <= before for before, after in pairwise(times)):
            found.append("two boxes at a time, or out of order")
    if asked.span:
        return [*found, *spatial_faults(case, asked, answer)]
    return [*found, *temporal_faults(case, asked, answer, pair.status)]


def test_no_claim_contradicts_a_question():
    asked = Counter()
    for number in range(CASES):
        case = make_case(number)
        pairs, _ = questions_of("v", case.events, case.end_s, case.rules)
        assert questions_of("v", case.events[::-1], case.end_s, case.rules)[0] == pairs, number
        assert len({pair.question for pair in pairs}) == len({pair.qa_id for pair in pairs}) == len(pairs), number
        for pair in pairs:
            assert not (faults := faults_of(case, pair)), (number, pair.question, pair.answer, faults)
            asked[re.match("Between|When is the (moment|first|second)|What [a-z]+", pair.question)[0]] += 1
    assert len(asked) == 6 and min(asked.values()) >= 5, asked
