"""Classes that can be told without looking at the picture: from the file's format, size, quality, border or name.

A model can learn such a fact instead of the class. A small decision tree (Breiman et al. 1984) is grown on these facts
alone, and judged on images that it has not seen.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.imaging.images import Pixels
from ml.intake.findings import Finding

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

_LEAST: Final = 50
_LEAST_OF_CLASS: Final = 5
_MOST: Final = 3000
_FOLDS: Final = 3
_DEPTH: Final = 3
_LEAST_LEAF: Final = 5
_THRESHOLDS: Final = 12
_MUCH: Final = 0.25
"""Of what the majority's share leaves: so much of it must be told right by the facts alone."""
_SURE: Final = 3.0
_FAMILIES: Final = ("format", "size", "quality", "border", "name")


@dataclass(frozen=True)
class FileFacts:
    """What is known of an image without its content.

    Attributes:
        key: the object's key.
        bits_per_pixel: of the encoded file.
        quality: sum of the JPEG quantisation tables; 0 for other formats.
        border: spread of the outermost pixels, 0 to 255; 0 is a frame of one colour.
        border_level: their mean.
    """

    key: str
    format: str
    width: int
    height: int
    grey: bool
    bits_per_pixel: float
    quality: float
    border: float
    border_level: float


def quality_of(data: bytes) -> float:
    """The sum of a JPEG's quantisation tables; 0 if it has none."""
    total, position = 0, 2
    while data[:2] == b"\xff\xd8" and position + 4 <= len(data) and data[position] == 0xFF:
        kind, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if kind == 0xDB:
            total += sum(data[position + 4 : position + 2 + length])
        if kind == 0xDA or length < 2:
            break
        position += 2 + length
    return float(total)


def border_of(pixels: Pixels) -> tuple[float, float]:
    """Spread and mean of the outermost pixels of ``uint8[H, W, C]``."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.float32)
    return float(edge.std(0).mean().round(3)), float(edge.mean().round(3))


def find(facts: Sequence[FileFacts], labels: Sequence[str]) -> tuple[Finding, ...]:
    """A warning for each family of facts that tells the classes apart; the drop is not held for it."""
    counts = Counter(labels)
    rows = [i for i, label in enumerate(labels) if counts[label] >= _LEAST_OF_CLASS][:_MOST]
    classes = sorted({labels[i] for i in rows})
    if len(rows) < _LEAST or len(classes) < 2:
        return ()
    chosen = [facts[i] for i in rows]
    class_ids = np.asarray([classes.index(labels[i]) for i in rows], np.int64)
    findings = [_finding(name, _columns(name, chosen), class_ids, classes) for name in _FAMILIES]
    return tuple(f for f in findings if f is not None)


def one_class_a_drop(labels: Sequence[str], others: Mapping[str, Sequence[str]]) -> tuple[Finding, ...]:
    """A warning if this drop holds one class only, and so do the stored ones: the drop tells the class.

    Args:
        labels: of the drop's images.
        others: labels of samples of other drops, by drop; drops with few samples are left out by the caller.
    """
    if len(set(labels)) != 1 or not others:
        return ()
    label = labels[0]
    single = {drop: set(names) for drop, names in others.items() if len(set(names)) == 1}
    elsewhere = sum(label in names for drop, names in others.items() if drop not in single)
    if len(single) < len(others) or elsewhere:
        return ()
    share = (len(single) + 1) / (len(others) + 1)
    message = (
        f"the drop holds `{label}` only, and each of the {len(others)} drops compared holds one class: light, camera "
        "or background of a drop then tell the class; mix the classes of a drop"
    )
    return (Finding("drop_tells_class", message, holds=False, figures={"share": round(share, 4)}),)


def _finding(name: str, columns: Floats, class_ids: Ids, classes: Sequence[str]) -> Finding | None:
    majority = float(np.bincount(class_ids).max() / len(class_ids))
    accuracy = _held_out_share(columns, class_ids, len(classes))
    gain = (accuracy - majority) / max(1 - majority, 1e-9)
    error = np.sqrt(max(majority * (1 - majority), 1 / len(class_ids)) / len(class_ids))
    if gain < _MUCH or accuracy - majority < _SURE * error:
        return None
    what = {"name": "file names", "border": "border of the image"}.get(name, f"{name} of the file")
    message = (
        f"the {what} alone tells the class of {accuracy:.0%} of the images, the most frequent class is {majority:.0%}: "
        "a model can learn that instead of the picture; encode and name all classes alike"
    )
    figures = {"told": round(accuracy, 4), "majority": round(majority, 4)}
    return Finding(f"{name}_tells_class", message, holds=False, figures=figures)


def _columns(family: str, facts: Sequence[FileFacts]) -> Floats:
    if family == "format":
        return np.asarray([[_code(f.format), f.grey] for f in facts], np.float64)
    if family == "size":
        return np.asarray([[f.width, f.height, f.width / max(f.height, 1)] for f in facts], np.float64)
    if family == "quality":
        return np.asarray([[f.quality, f.bits_per_pixel if f.quality else 0] for f in facts], np.float64)[:, :1]
    if family == "border":
        return np.asarray([[f.border < 1, f.border_level if f.border < 1 else -1] for f in facts], np.float64)
    return _name_columns([PurePosixPath(f.key).name for f in facts])


def _code(text: str) -> float:
    return float(int.from_bytes(text.encode()[:6], "big"))


def _name_columns(names: Sequence[str]) -> Floats:
    """Length, number, and which of the most frequent words and patterns a name has; never the folder."""
    patterns = [re.sub(r"\d+", "0", name.lower()) for name in names]
    words = [set(re.findall(r"[a-z]+", name.lower())) for name in names]
    frequent = [w for w, n in Counter(w for name_words in words for w in name_words).most_common(20) if n < len(names)]
    shapes = [p for p, n in Counter(patterns).most_common(10) if n < len(names) and n > 1]
    rows = [
        [len(n), *(w in name_words for w in frequent), *(p == s for s in shapes)]
        for n, p, name_words in zip(names, patterns, words, strict=True)
    ]
    return np.asarray(rows, np.float64)


def _held_out_share(columns: Floats, class_ids: Ids, classes: int) -> float:
    """The share of images whose class a tree tells that was grown without them."""
    fold = np.empty(len(class_ids), np.int64)
    for label in range(classes):  # each class in each fold
        members = np.flatnonzero(class_ids == label)
        fold[members] = np.arange(len(members)) % _FOLDS
    right = 0
    for number in range(_FOLDS):
        inside = fold == number
        answers = _grow_and_answer(columns[~inside], class_ids[~inside], columns[inside], classes, _DEPTH)
        right += int((answers == class_ids[inside]).sum())
    return right / len(class_ids)


def _grow_and_answer(columns: Floats, class_ids: Ids, queries: Floats, classes: int, depth: int) -> Ids:
    counts = np.bincount(class_ids, minlength=classes)
    answers = np.full(len(queries), int(counts.argmax()), np.int64)
    split = _best_split(columns, class_ids, classes) if depth and counts.max() < len(class_ids) else None
    if split is None or not len(queries):
        return answers
    column, threshold = split
    ours, theirs = columns[:, column] <= threshold, queries[:, column] <= threshold
    for side in (True, False):
        answers[theirs == side] = _grow_and_answer(
            columns[ours == side], class_ids[ours == side], queries[theirs == side], classes, depth - 1
        )
    return answers


def _best_split(columns: Floats, class_ids: Ids, classes: int) -> tuple[int, float] | None:
    """Column and threshold with the least Gini impurity; None if no split helps."""
    best, least = None, _impurity(class_ids, classes) - 1e-9
    for column in range(columns.shape[1]):
        values = columns[:, column]
        different = np.unique(values)[:-1]
        steps = np.linspace(0, len(different) - 1, min(_THRESHOLDS, len(different))).astype(int)
        for threshold in different[np.unique(steps)] if len(different) else ():
            left = values <= threshold
            if min(left.sum(), (~left).sum()) < _LEAST_LEAF:
                continue
            impurity = _impurity(class_ids[left], classes) + _impurity(class_ids[~left], classes)
            if impurity < least:
                best, least = (column, float(threshold)), impurity
    return best


def _impurity(class_ids: Ids, classes: int) -> float:
    counts = np.bincount(class_ids, minlength=classes)
    return float(len(class_ids) - (counts**2).sum() / max(len(class_ids), 1))
