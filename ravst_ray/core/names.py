"""Object names: normal form, and when two names mean the same thing.

Names are compared by the cosine of their mean word vectors, from a threshold ``tau`` on that belongs to the vectors
(arXiv 2511.16901 uses word2vec with 0.75; the same number means nothing for other vectors).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

import numpy as np

# Thai, Lao, Burmese, Khmer, Chinese, Japanese, and Korean, whose particles join the nouns: no space ends a word there.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
MARKS = "\u0300-\u036f\u0900-\u0963\u0966-\u0dff"  # accents on their own, and the vowels of India's scripts
_WORD = re.compile(rf"[\w{UNSPACED}{MARKS}]+")
_PART = re.compile(rf"[{UNSPACED}]|[^{UNSPACED}]+")
_NUMBERING = re.compile(r"\s*\d{1,9}\s*[.)]\s")
_MAX_WORDS = 32
_DETERMINERS = frozenset(
    (
        "a",
        "an",
        "the",
        "this",
        "that",
        "these",
        "those",
        "some",
        "any",
        "its",
        "his",
        "her",
        "their",
        "my",
        "your",
        "our",
    )
)
_SINGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "persons": "person",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "oxen": "ox",
    "calves": "calf",
    "wolves": "wolf",
    "leaves": "leaf",
    "knives": "knife",
    "shelves": "shelf",
    "buses": "bus",
    "potatoes": "potato",
    "tomatoes": "tomato",
    "canoes": "canoe",
    "shoes": "shoe",
    "movies": "movie",
    "cookies": "cookie",
    "zombies": "zombie",
    "selfies": "selfie",
}
_SEVERAL = frozenset(
    [
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "several",
        "many",
        "some",
        "group",
        "crowd",
    ]
)
_COLLECTIVE = frozenset(["audience", "band", "cattle", "choir", "orchestra", "team"])
_NOT_PLURAL = frozenset(["news", "lens", "gas", "series", "species", "canvas"])
_COUNTING = _SEVERAL | {"one", "another", "other", "few", "couple", "pair", "both", "all", "of"}
_KINDS = {
    kind: frozenset(named.split())
    for kind, named in {
        "person": "man woman male female guy lady boy girl child kid toddler baby adult singer player performer",
        "man": "male guy gentleman",
        "woman": "female lady",
        "child": "kid boy girl toddler baby",
        "kid": "boy girl toddler baby",
        "animal": "dog puppy cat kitten horse cow bull cattle sheep goat lion bird frog donkey",
        "dog": "puppy",
        "cat": "kitten",
        "bird": "chicken rooster duck goose",
        "vehicle": "car truck bus van motorcycle ambulance train tractor",
        "plane": "airplane aircraft jet",
        "aircraft": "airplane jet helicopter",
    }.items()
}
"""What else may be called by a word: people and what the labels of UnAV-100 are full of, no dictionary."""


def clean_name(text: str) -> str | None:
    """A name that a person gave, as it may stand in an answer: NFC, single spaces; None where it can't.

    >>> clean_name("  old   man "), clean_name("<b>"), clean_name(" ")
    ('old man', None, None)
    """
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    return name if name and name.isprintable() and not {"<", ">"} & set(name) else None


def singular(word: str) -> str:
    """A lower-case English noun with its plural folded, by rule and a short list of exceptions."""
    if word in _SINGULAR:
        return _SINGULAR[word]
    if len(word) < 4 or word in _NOT_PLURAL or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return word[:-2]
    return word[:-1]


def is_plural(name: str) -> bool:
    """Whether a name means several things: its last word is a plural or a collective, or a number above one is in it.

    >>> is_plural("two young boys"), is_plural("a crowd of people"), is_plural("brass band"), is_plural("red drum")
    (True, True, True, False)
    """
    words = _WORD.findall(name.lower())
    if not words:
        return False
    return singular(words[-1]) != words[-1] or words[-1] in _COLLECTIVE or bool(_SEVERAL.intersection(words))


@lru_cache(maxsize=65536)
def normal_words(name: str) -> tuple[str, ...]:
    """The words of a name that count: lower case, no determiners, no list numbering, plurals folded.

    At most 32 words. A name of nothing but determiners keeps them, one without any word ("♪") its signs.

    Example:
        >>> normal_words("The two young Boys")
        ('two', 'young', 'boy')
    """
    numbering = _NUMBERING.match(name[:64])
    text = name[numbering.end() if numbering else 0 :][:1024].lower().replace("'s ", " ").replace("’s ", " ")
    words = _WORD.findall(text)[:_MAX_WORDS]
    kept = [singular(word) for word in words if word not in _DETERMINERS]
    return tuple(kept or words or text.split()[:_MAX_WORDS])


@lru_cache(maxsize=65536)
def may_be_same(one: str, other: str, number_tells: bool = False) -> bool:
    """Whether one name may mean the thing that the other does: all words of the shorter are said by the longer.

    How many there are tells nothing ("two men" may be the old man and another), a word may stand for its kind ("person"
    and "man"), and where no spaces part words, characters are compared. With ``number_tells`` one man isn't "people".

    >>> may_be_same("man", "old man"), may_be_same("two men", "old man"), may_be_same("red drum", "blue drum")
    (True, True, False)
    >>> may_be_same("person", "tall man"), may_be_same("people", "man", number_tells=True), may_be_same("人", "老人")
    (True, False, True)
    """
    kinds = not number_tells or is_plural(one) == is_plural(other)
    short, long = sorted((_telling(one), _telling(other)), key=len)
    return all(any(_may_mean(word, said, kinds) for said in long) for word in short)


def _telling(name: str) -> frozenset[str]:
    """The words that tell what a thing is; single characters of a script that has no spaces."""
    words = frozenset(part for word in normal_words(name) for part in _PART.findall(word))
    return words - _COUNTING or words


def _may_mean(word: str, said: str, kinds: bool) -> bool:
    return word == said or (kinds and (said in _KINDS.get(word, ()) or word in _KINDS.get(said, ())))


class WordVectors(Protocol):
    """Word vectors with their calibrated threshold; gensim's ``KeyedVectors`` behind a thin wrapper."""

    tau: float

    def vector(self, word: str) -> np.ndarray | None:
        """The vector of a lower-case word, ``[D]``; None when it isn't in the vocabulary."""
        ...


class NameMatcher:
    """Says how alike two names are, in [0, 1], and whether they are the same thing.

    Args:
        vectors: word vectors; None compares normal forms for equality.
        tau: replaces the vectors' own threshold.
    """

    def __init__(self, vectors: WordVectors | None = None, tau: float | None = None):
        self.vectors = vectors
        self.tau = tau if tau is not None else (vectors.tau if vectors is not None else 1.0)
        self.similarity = lru_cache(maxsize=65536)(self._similarity)
        self._mean = lru_cache(maxsize=65536)(self._mean_vector)

    def same(self, a: str, b: str) -> bool:
        """Whether two names are taken for the same object."""
        return self.similarity(a, b) >= self.tau

    def score(self, a: str, b: str) -> float:
        """The similarity where two names are the same, else 0."""
        similarity: float = self.similarity(a, b)
        return similarity if similarity >= self.tau else 0.0

    def _similarity(self, a: str, b: str) -> float:
        words_a, words_b = normal_words(a), normal_words(b)
        if words_a == words_b:
            return 1.0 if words_a or a.strip() == b.strip() else 0.0
        one, other = self._mean(words_a), self._mean(words_b)
        if one is None or other is None:
            return 0.0
        return min(max(float(one @ other), 0.0), 1.0)

    def _mean_vector(self, words: Iterable[str]) -> np.ndarray | None:
        """Mean vector of unit length; None when no word is in the vocabulary."""
        if self.vectors is None:
            return None
        found = [vector for word in words if (vector := self.vectors.vector(word)) is not None]
        if not found:
            return None
        mean: np.ndarray = np.asarray(found, dtype=np.float64).mean(axis=0)
        norm = float(np.linalg.norm(mean))
        return np.asarray(mean / norm) if norm > 0 else None

    def __reduce__(self):
        return type(self), (self.vectors, self.tau)
