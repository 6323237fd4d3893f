"""What the language model is asked about captions, and how its answers are read. Pure text, no network.

caption -> caption_messages, objects_schema -> (a model) -> parse_objects -> clean_objects -> objects

No objects is an answer, too: nothing that can be seen makes the sound.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from ravst_ray.core.names import MARKS, UNSPACED
from ravst_ray.core.replies import MalformedAnswer, json_objects
from ravst_ray.records import SceneObject

Message = dict[str, Any]

AUDIBLE = "visible and audible"
SILENT = "visible only"
MAX_OBJECTS = 8
MAX_NAME_WORDS = 4

_SYSTEM = (
    "You read the caption of a video with sound. List every physical object, animal or person that the caption names, "
    "with its adjectives, in the words of the caption. "
    f'Mark an object "{AUDIBLE}" if it makes sound in the caption, and "{SILENT}" if it does not. '
    'If nothing that can be seen makes the sound (thunder, wind noise, speech off screen), answer {"objects": []}. '
    'Answer in JSON: {"objects": [{"name": "...", "audibility": "..."}]}'
)
_EXAMPLES: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...] = (
    ("a brown dog barks at a wooden fence", (("brown dog", True), ("wooden fence", False))),
    (
        "a tall girl laughs and a kettle is boiling near a grey chair",
        (("tall girl", True), ("kettle", True), ("grey chair", False)),
    ),
    (
        "a parked truck stands on a street while a woman sings",
        (("parked truck", False), ("street", False), ("woman", True)),
    ),
    ("rain noise", ()),  # last, where it moves a small model's judgement of audibility least
)
NO_SOURCE = "nothing in view makes this sound"
_CAPTION_REQUEST = (
    "These frames are from a video, in order of time; its sound is labelled: {label}. "
    "Write one plain sentence of at most 40 words that names the people, animals and objects in view, each with its "
    "colour or another mark of its own: first what makes this sound, then what is in view and silent, and says which "
    "is which. If what makes the sound can't be seen in any frame, write only: {no_source}."
)

_WORD = re.compile(rf"[\w{UNSPACED}{MARKS}]+(?:['’-][\w{UNSPACED}{MARKS}]+)*")
_UNIT = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])[\w{MARKS}])+(?:['’-](?:(?![{UNSPACED}])[\w{MARKS}])+)*")
_SPECIAL = re.compile(r"<\|[^<>|]{1,40}\|>")  # what a chat template would take for an end of the user's turn, say


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DETERMINERS = _words("a an the this that these those some his her its their my our your")
# What an object sounds like is no part of what it looks like, and a detector is given the name.
_SOUND_WORDS = _words("silent quiet loud noisy audible")
# A sound is a noun, but nothing that can be seen.
_SOUNDS = _words("sound sounds noise noises music")
_FUNCTION_WORDS = (
    _DETERMINERS
    | _SOUND_WORDS
    | _SOUNDS
    | _words(
        "is are was were be been being am of in on at to with without by and or but while as from near beside next "
        "between behind under over above below front through into onto past up down out off no not for it they he she "
        "which who where when there during along around against inside outside towards then than silently quietly "
        "loudly has have having very still"
    )
)


class _NamedObject(BaseModel):
    name: str
    audibility: Literal["visible and audible", "visible only"]


class _Answer(BaseModel):
    objects: list[_NamedObject]


def caption_messages(caption: str) -> list[Message]:
    """The conversation that asks for the objects of one caption, worked examples first; ``<|…|>`` is left out of it."""
    messages: list[Message] = [{"role": "system", "content": _SYSTEM}]
    for example, objects in _EXAMPLES:
        messages.append({"role": "user", "content": example})
        messages.append({"role": "assistant", "content": render_objects(SceneObject(*pair) for pair in objects)})
    return [*messages, {"role": "user", "content": " ".join(_SPECIAL.sub(" ", caption).split())}]


def frames_messages(label: str, jpegs: Sequence[bytes]) -> list[Message]:
    """The conversation that asks a vision-language model for the caption of an event, from its frames (JPEG files)."""
    content: list[dict[str, Any]] = [
        {"type": "text", "text": _CAPTION_REQUEST.format(label=label, no_source=NO_SOURCE)}
    ]
    for jpeg in jpegs:
        url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
        content.append({"type": "image_url", "image_url": {"url": url}})
    return [{"role": "user", "content": content}]


def objects_schema(names: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON schema of an answer; ``names``, where given, are the only names that it allows."""
    name: dict[str, Any] = {"type": "string", "enum": list(names)} if names else {"type": "string"}
    item = {
        "type": "object",
        "properties": {"name": name, "audibility": {"type": "string", "enum": [AUDIBLE, SILENT]}},
        "required": ["name", "audibility"],
        "additionalProperties": False,
    }
    bounds = {"minItems": 0, "maxItems": MAX_OBJECTS} if names else {}
    return {
        "type": "object",
        "properties": {"objects": {"type": "array", "items": item, **bounds}},
        "required": ["objects"],
        "additionalProperties": False,
    }


def candidate_names(caption: str) -> list[str]:
    """Every run of up to ``MAX_NAME_WORDS`` words of the caption without function words or punctuation inside.

    None for a caption in a script whose words no spaces part: there is no telling where a name begins and ends.

    Example:
        >>> candidate_names("The old dog, barking at a cat")
        ['old', 'old dog', 'dog', 'barking', 'cat']
    """
    names: dict[str, None] = {}
    if lacks_spaces(caption):
        return []
    for clause in re.split(r"[^\w\s'’-]+", caption.lower()):
        words = _WORD.findall(clause)
        for start in range(len(words)):
            for stop in range(start + 1, min(len(words), start + MAX_NAME_WORDS) + 1):
                if words[stop - 1] in _FUNCTION_WORDS:
                    break
                names[" ".join(words[start:stop])] = None
    return list(names)


def render_objects(objects: Iterable[SceneObject]) -> str:
    """An answer as a model gives it; the inverse of :func:`parse_objects`."""
    rows = [{"name": o.name, "audibility": AUDIBLE if o.audible else SILENT} for o in objects]
    return json.dumps({"objects": rows}, ensure_ascii=False)


def parse_objects(text: str) -> list[SceneObject]:
    """Read an answer, also after thinking, in a Markdown code fence or amid sentences; the first that fits counts.

    Raises:
        MalformedAnswer: it holds no JSON object, or only ones of another shape; the message says which.
    """
    misfit = MalformedAnswer("no JSON object in it")
    for found in json_objects(text):
        try:
            answer = _Answer.model_validate(found)
        except ValidationError as error:
            finding = error.errors(include_url=False)[0]
            misfit = MalformedAnswer(f"{'.'.join(map(str, finding['loc']))}: {finding['msg']}")
            continue
        return [SceneObject(row.name, row.audibility == AUDIBLE) for row in answer.objects]
    raise misfit


def says_no_source(caption: str) -> bool:
    """Whether a caption says in the words of :func:`frames_messages` that the source of the sound can't be seen."""
    return " ".join(NO_SOURCE.split()) in " ".join(caption.lower().split())


def lacks_spaces(text: str) -> bool:
    """Whether a text is, in part, in a script whose words no spaces part (Chinese, Japanese, Thai …) or in Korean."""
    return bool(re.search(f"[{UNSPACED}]", text))


def clean_name(name: str) -> str:
    """Lower case, single spaces, no leading determiner or word about sound: ``"The silent Bell."`` gives ``"bell"``."""
    words = _WORD.findall(name.lower())
    while words and words[0] in _DETERMINERS | _SOUND_WORDS:
        words.pop(0)
    return " ".join(words)


def clean_objects(objects: Iterable[SceneObject], caption: str) -> tuple[list[SceneObject], int]:
    """Clean the names, drop those that the caption doesn't hold, and fold those that mean the same words of it.

    Of two names for the same words (``"drum"``, ``"red drum"``) the longer stays, and it is audible if either is. Where
    no spaces part words (:func:`lacks_spaces`), every character is looked for as a word is elsewhere.

    Returns:
        At most ``MAX_OBJECTS`` objects in the order of the answer, and how many names were not in the caption.
    """
    words = _units(caption)
    kept: dict[str, bool] = {}
    dropped = 0
    for thing in objects:
        name = clean_name(thing.name)
        if not name or name.split()[-1] in _SOUNDS or not _occurs(_units(name), words):
            dropped += 1
            continue
        rival = next((other for other in kept if _same_words(name, other, words)), None)
        audible = thing.audible
        if rival is not None:
            audible, name = audible or kept[rival], max(rival, name, key=len)
            kept = {name if key == rival else key: value for key, value in kept.items()}
        kept[name] = audible
    return [SceneObject(name, audible) for name, audible in kept.items()][:MAX_OBJECTS], dropped


def _units(text: str) -> list[str]:
    """What a text is compared by: its words, and single characters where no spaces part words."""
    return _UNIT.findall(text.lower())


def _same_words(name: str, other: str, caption: Sequence[str]) -> bool:
    """Whether the shorter is nothing but a part of the longer: it stands nowhere else in the caption."""
    short, long = sorted((_units(name), _units(other)), key=len)
    if not any(long[i : i + len(short)] == short for i in range(len(long))):
        return False
    return _count(short, caption) <= _count(long, caption)


def _count(name: Sequence[str], caption: Sequence[str]) -> int:
    return sum(list(caption[i : i + len(name)]) == list(name) for i in range(len(caption)))


def _occurs(name: Sequence[str], caption: Sequence[str]) -> bool:
    """Whether the words of a name stand in the caption in order, at most two other words among them.

    So "red ball" is in "red and blue balls", but "green car" is not in "a blue car and a green bell".
    """
    for start, word in enumerate(caption):
        if not _alike(word, name[0]):
            continue
        rest = iter(caption[start + 1 : start + len(name) + 2])
        if all(any(_alike(seen, wanted) for seen in rest) for wanted in name[1:]):
            return True
    return False


def _alike(a: str, b: str) -> bool:
    """Equal up to a plural ending."""
    short, long = sorted((a, b), key=len)
    return short == long or (len(short) >= 3 and long in (short + "s", short + "es"))
