"""Labels of digits, judged against other digits and alone."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.imaging import images
from ml.imaging.images import Limits, Pixels
from ml.label_checks import backdoors
from ml.label_checks.features import describe
from ml.label_checks.judge import Judgement, Labelled, judge
from tests.pictures import digits

NAMES = list("0123456789")
LIMITS = Limits(1_000_000, 1_000_000)

Ids = NDArray[np.int64]


@cache
def pixels() -> Pixels:
    return np.stack([images.decode(data, 32, 3, LIMITS) for _, data in digits()])


@cache
def everything() -> Labelled:
    return Labelled(describe(pixels()), np.asarray([int(label) for label, _ in digits()]))


ORDER = np.random.default_rng(0).permutation(1797)
STORED, DROP = ORDER[:600], ORDER[600:1000]


def judged(rows: Ids, given: Ids, stored: Ids = STORED, limit: float = 0.2) -> Judgement:
    known = Labelled(everything().features[stored], everything().class_ids[stored])
    return judge(Labelled(everything().features[rows], given), known, NAMES, [f"k{i}" for i in rows], limit)


def flipped(rows: Ids, share: float, seed: int = 0) -> Ids:
    generator = np.random.default_rng(seed)
    labels = everything().class_ids[rows]
    wrong = generator.random(len(rows)) < share
    return np.where(wrong, (labels + generator.integers(1, 10, len(rows))) % 10, labels)


def kinds(judgement: Judgement) -> set[str]:
    return {f.kind for f in judgement.findings if f.holds}


@pytest.mark.parametrize("size", [12, 50, 400])
def test_right_labels_pass(size: int) -> None:
    rows = DROP[:size]
    judgement = judged(rows, everything().class_ids[rows])
    assert kinds(judgement) == set()
    assert (judgement.noise or 0) < 0.05
    assert judgement.moved == ()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_noise_is_estimated_and_held_above_the_limit(share: float) -> None:
    given = flipped(DROP, share)
    true = float((given != everything().class_ids[DROP]).mean())
    judgement = judged(DROP, given)
    assert judgement.noise == pytest.approx(true, abs=0.05)
    assert judgement.low is not None
    assert judgement.high is not None
    assert judgement.low <= true + 0.02
    assert judgement.high >= true - 0.02
    assert ("label_noise" in kinds(judgement)) == (share > 0.2)


def test_the_limit_is_the_setting() -> None:
    given = flipped(DROP, 0.3)
    assert kinds(judged(DROP, given, limit=0.4)) == set()


def test_the_first_suspects_are_wrong() -> None:
    given = flipped(DROP, 0.1)
    suspects = judged(DROP, given).suspects[:30]
    truth = everything().class_ids[DROP]
    assert np.mean([given[s.position] != truth[s.position] for s in suspects]) > 0.9
    assert np.mean([NAMES[truth[s.position]] == s.likely for s in suspects]) > 0.9


@pytest.mark.parametrize("stored", [STORED, STORED[:0]])
def test_shuffled_labels_are_held(stored: Ids) -> None:
    rows = ORDER[600:1200]
    labels = everything().class_ids[rows]
    assert kinds(judged(rows, np.random.default_rng(1).permutation(labels), stored)) == {"shuffled_labels"}
    assert kinds(judged(rows, labels, stored)) == set()


def test_forty_wrong_images_are_held() -> None:
    assert kinds(judged(DROP[:40], flipped(DROP[:40], 1.1)))


def test_one_class_under_another_name_is_named_with_its_images() -> None:
    rows = DROP[everything().class_ids[DROP] == 4]
    judgement = judged(rows, np.full(len(rows), 9))
    (finding,) = (f for f in judgement.findings if f.holds)
    assert finding.kind == "relabelled_class"
    assert "called `9` look like the stored `4`" in finding.message
    assert set(finding.images) <= {f"k{i}" for i in rows}
    assert kinds(judged(rows, everything().class_ids[rows])) == set()


def test_part_of_a_class_renamed_is_named() -> None:
    given = everything().class_ids[DROP].copy()
    given[np.flatnonzero(given == 3)[:25]] = 8
    findings = [f for f in judged(DROP, given).findings if f.kind == "relabelled_class"]
    assert ["called `8` look like the stored `3`" in f.message for f in findings] == [True]


def test_right_labels_of_strange_pictures_pass() -> None:
    rows = ORDER[600:1200]
    strange = describe(255 - pixels()[rows])
    known = Labelled(everything().features[STORED], everything().class_ids[STORED])
    labels = everything().class_ids[rows]
    keys = [str(i) for i in rows]
    assert kinds(judge(Labelled(strange, labels), known, NAMES, keys, 0.2)) == set()
    mixed = np.random.default_rng(0).permutation(labels)
    assert kinds(judge(Labelled(strange, mixed), known, NAMES, keys, 0.2))


def test_exchanged_classes_of_strange_pictures_are_held_with_their_images() -> None:
    rows = ORDER[600:1200]
    strange = describe(255 - pixels()[rows])
    known = Labelled(everything().features[STORED], everything().class_ids[STORED])
    given = (everything().class_ids[rows] + 1) % 10
    keys = [str(i) for i in rows]
    judgement = judge(Labelled(strange, given), known, NAMES, keys, 0.2)
    (finding,) = (f for f in judgement.findings if f.holds)
    assert finding.kind == "exchanged_classes"
    assert " like the stored " in finding.message
    assert len(finding.images) == 100
    assert kinds(judge(Labelled(strange[:20], given[:20]), known, NAMES, keys[:20], 0.2)) == set(), "too few to tell"


def test_little_is_said_of_little() -> None:
    none = STORED[:0]
    assert judged(DROP[:3], everything().class_ids[DROP[:3]], none) == Judgement("nothing", 0)
    ones = DROP[everything().class_ids[DROP] == 1]
    assert judged(ones, everything().class_ids[ones], none).findings == ()
    assert judged(DROP[:0], none).findings == ()


def test_a_thousand_classes_and_single_samples_pass() -> None:
    generator = np.random.default_rng(0)
    names = [f"c{i}" for i in range(1000)]
    features = generator.normal(size=(1500, 20)).astype(np.float32)
    drop = Labelled(features[:800], np.arange(800) % 1000)
    known = Labelled(features[800:], np.arange(700) % 350)
    keys = [str(i) for i in range(800)]
    assert not any(f.holds for f in judge(drop, known, names, keys, 0.2).findings)


def test_grey_and_flat_pictures_have_features() -> None:
    flat = np.zeros((3, 32, 32, 3), np.uint8)
    flat[1], flat[2] = 255, 128
    assert np.isfinite(describe(flat)).all()


def test_features_of_an_image_do_not_depend_on_the_others() -> None:
    together, alone = describe(pixels()[:70]), describe(pixels()[69:70])
    np.testing.assert_allclose(together[69], alone[0], atol=1e-4)


def test_a_pattern_in_a_corner_that_bears_one_label_is_found() -> None:
    rows = ORDER[600:1200]
    given, shown = everything().class_ids[rows].copy(), pixels()[rows].copy()
    bearing = np.flatnonzero(given != 7)[:30]
    shown[bearing, -3:, -3:] = np.asarray([[255, 0, 255], [0, 255, 0], [255, 0, 255]], np.uint8)[..., None]
    given[bearing] = 7
    known = Labelled(everything().features[STORED], everything().class_ids[STORED])
    keys = [str(i) for i in range(len(rows))]
    judgement = judge(Labelled(describe(shown), given), known, NAMES, keys, 0.2)
    assert judgement.evidence is not None
    explained = judgement.evidence.explained
    (finding,) = backdoors.find(shown, explained, given, NAMES, keys)
    assert set(finding.images) == {str(i) for i in bearing}
    assert "at the bottom right" in finding.message
    assert backdoors.find(pixels()[rows], explained, everything().class_ids[rows], NAMES, keys) == ()
