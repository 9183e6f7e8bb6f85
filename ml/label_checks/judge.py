"""Judges a drop's labels by what can be learned from the stored samples and from the drop itself.

Three cases (docs/decisions/0034):

- The drop's images are like the stored ones: a classifier of the stored samples says how many labels are wrong and
  which class is meant instead.
- They are of another kind (drift): that classifier is a witness only if a classifier of the drop itself sides with it
  where it disputes labels. If not, the labels pass as long as they can be learned within the drop.
- Nothing is stored, or no class in common: the labels must be learnable within the drop. How many are wrong can only
  be bounded, by how often the surest held-out answers disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ml.intake.findings import Finding
from ml.label_checks import confusion, domain, noise, renaming
from ml.label_checks.agreement import Agreement, agreement
from ml.label_checks.confusion import Moved
from ml.label_checks.learner import Learner, probabilities, sharpness
from ml.label_checks.noise import Share

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Basis = Literal["stored", "drop", "nothing"]

MOST_STORED: Final = 1500
MOST_SUSPECTS: Final = 100
_LEAST_STORED: Final = 30
_LEAST_COMPARED: Final = 10
_LEAST_PER_CLASS: Final = 3
_LEAST_WITHIN: Final = 100
_OTHER_KIND: Final = 0.75  # area under the curve from which on drop and stored images are of different kinds
_SURE: Final = 2.33  # standard errors: one-sided 99 %
_SURELY_SOME: Final = 0.05  # a hold needs at least so much noise beyond doubt
_AT_RANDOM: Final = 1.5  # labels given at random may be so many times the accepted share of wrong ones
_LEARNABLE: Final = 0.35  # of the agreement that stored labels reach
_CONTRADICTED: Final = 0.6  # of disputed labels that the drop itself contradicts
PROBABLY: Final = 0.5
"""From this probability on a label is probably wrong."""
_SIGNIFICANT: Final = 3.0
_POWER: Final = 0.3  # agreement from which on the surest answers of a drop alone say something
_BLOCK: Final = 1500
_PAIRS: Final = 3  # of exchanged classes that are named


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images by their features ``float32[N, D]`` and class numbers ``int64[N]``."""

    features: Floats
    class_ids: Ids

    def __len__(self) -> int:
        return len(self.class_ids)


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong, and how probably it is; `position` counts the judged images."""

    position: int
    likely: str
    probability: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for each class: ``float32[N, K]`` of `noise.likelihoods`, of the judged images at `positions`."""

    positions: Ids
    explained: Floats


@dataclass(frozen=True)
class Judgement:
    """What is known of the labels.

    Attributes:
        basis: what the labels were compared with.
        judged: how many images were.
        noise: the estimated share of wrong labels; at basis `drop` at most so many.
        low, high: its interval, 95 %.
        separability: how well the drop's images can be told from stored ones, 0.5 to 1.
        learned, expected: Cohen's kappa of labels and held-out answers within the drop, and within as many stored ones.
        moved: pairs of given and likely class.
        suspects: the most suspicious first.
        evidence: by classifiers that did not see an image's own label.
    """

    basis: Basis
    judged: int
    noise: float | None = None
    low: float | None = None
    high: float | None = None
    separability: float | None = None
    learned: float | None = None
    expected: float | None = None
    moved: tuple[Moved, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    findings: tuple[Finding, ...] = ()
    evidence: Evidence | None = None


def judge(drop: Labelled, stored: Labelled, names: Sequence[str], keys: Sequence[str], limit: float) -> Judgement:
    """Judge the labels of a drop.

    Args:
        drop: the images to judge, in an order that does not depend on their labels.
        stored: samples of the data with the labels that stand, likewise.
        names: of the classes by number.
        keys: of the drop's images.
        limit: share of wrong labels that is accepted.
    """
    compared, known = _comparable(drop, stored, len(names))
    if len(known) >= _LEAST_STORED and len(compared) >= _LEAST_COMPARED:
        return _Comparison(drop, compared, known, names, keys, limit).judgement()
    return _alone(drop, names, keys, limit)


def _comparable(drop: Labelled, stored: Labelled, classes: int) -> tuple[Ids, Labelled]:
    """Positions of the drop's images whose class is stored, and the usable stored samples."""
    counts = np.bincount(stored.class_ids, minlength=classes)
    usable = counts >= _LEAST_PER_CLASS
    rows = np.flatnonzero(usable[stored.class_ids])[:MOST_STORED] if len(stored) else np.zeros(0, np.int64)
    if usable.sum() < 2:
        return np.zeros(0, np.int64), Labelled(stored.features[:0], stored.class_ids[:0])
    return np.flatnonzero(usable[drop.class_ids]), Labelled(stored.features[rows], stored.class_ids[rows])


class _Comparison:
    """A drop against stored samples."""

    def __init__(
        self,
        drop: Labelled,
        compared: Ids,
        stored: Labelled,
        names: Sequence[str],
        keys: Sequence[str],
        limit: float,
    ) -> None:
        self._drop = Labelled(drop.features[compared], drop.class_ids[compared])
        self._compared, self._stored, self._names, self._keys, self._limit = compared, stored, names, keys, limit
        learner = Learner.fit(stored.features, stored.class_ids, len(names))
        factor = sharpness(learner.held_out, stored.class_ids)
        self._of_stored = noise.likelihoods(probabilities(learner.held_out, factor), learner.shares)
        answers = probabilities(learner.scores(self._drop.features), factor)
        self._of_drop = noise.likelihoods(answers, learner.shares)

    def judgement(self) -> Judgement:
        drop, stored = self._drop, self._stored
        apart = domain.separability(drop.features, stored.features, self._of_drop.argmax(1), self._of_stored.argmax(1))
        share = self._wrong()
        other_kind = apart is None or apart >= _OTHER_KIND
        if other_kind and self._exceeds(share):
            within = _within(drop, len(self._names))
            if not self._sides_with_stored(within):
                return self._other_kind(apart, within)
        # Images of another kind are confused in other ways, with right labels too.
        moved = () if other_kind else self._moved()
        suspects = _suspects(self._of_drop, drop.class_ids, share.value, self._names, self._compared)
        findings = self._findings(share, moved, suspects)
        return Judgement(
            "stored",
            len(drop),
            *_interval(share),
            separability=apart,
            moved=moved,
            suspects=suspects,
            findings=findings,
            evidence=Evidence(self._compared, self._of_drop),
        )

    def _moved(self) -> tuple[Moved, ...]:
        return confusion.moved(
            self._of_drop, self._drop.class_ids, self._of_stored, self._stored.class_ids, self._names
        )

    def _wrong(self) -> Share:
        """Of the drop, less what the same estimate says of the stored samples with the drop's shares of classes."""
        classes = len(self._names)
        ours, theirs = (np.bincount(x.class_ids, minlength=classes) / len(x) for x in (self._drop, self._stored))
        weights = (ours / np.maximum(theirs, 1e-9))[self._stored.class_ids].astype(np.float32)
        of_drop = noise.wrong_share(self._of_drop, self._drop.class_ids)
        return of_drop.minus(noise.wrong_share(self._of_stored, self._stored.class_ids, weights))

    def _exceeds(self, share: Share) -> bool:
        surely = share.value - _SURE * share.error > _SURELY_SOME
        return surely and (share.value > self._limit or self._at_random(share) > _AT_RANDOM * self._limit)

    def _at_random(self, share: Share) -> float:
        """The share of labels that were given at random; shuffling leaves some right by chance."""
        shares = np.bincount(self._drop.class_ids, minlength=len(self._names)) / len(self._drop)
        return share.value / max(float(1 - (shares**2).sum()), 0.5)

    def _findings(self, share: Share, moved: tuple[Moved, ...], suspects: tuple[Suspect, ...]) -> tuple[Finding, ...]:
        findings = [self._relabelled(m) for m in moved if m.named(len(self._drop))]
        explained = sum(m.images for m in moved if m.holds(len(self._drop))) / len(self._drop)
        if self._exceeds(share) and explained < 0.6 * share.value:
            findings.append(self._noisy(share, suspects))
        return tuple(findings)

    def _relabelled(self, moved: Moved) -> Finding:
        given, likely = (self._names.index(n) for n in (moved.given, moved.likely))
        rows = np.flatnonzero(self._drop.class_ids == given)
        evidence = self._of_drop[rows, likely] - self._of_drop[rows, given]
        worst = rows[np.argsort(-evidence, kind="stable")][: min(MOST_SUSPECTS, max(1, round(moved.images)))]
        holds = moved.holds(len(self._drop))
        advice = "look at them, and approve or reject the drop" if holds else "look at them"
        return Finding(
            "relabelled_class",
            f"about {moved.images:.0f} of the {moved.of} images called `{moved.given}` look like the stored "
            f"`{moved.likely}` ({moved.share:.0%}, at least {moved.low:.0%}); {advice}",
            holds,
            tuple(self._keys[self._compared[i]] for i in worst),
            {"share": round(moved.share, 4), "low": round(moved.low, 4), "images": round(moved.images, 1)},
        )

    def _noisy(self, share: Share, suspects: tuple[Suspect, ...]) -> Finding:
        value, low, high = _interval(share)
        shuffled = self._at_random(share) + _SURE * share.error >= 1
        what = f"about {value:.0%} of the labels are wrong ({low:.0%} to {high:.0%}), accepted are {self._limit:.0%}"
        if shuffled:
            what = "the labels fit the images no better than chance: they look shuffled"
        return Finding(
            "shuffled_labels" if shuffled else "label_noise",
            f"{what}; look at the images named, and approve or reject the drop",
            holds=True,
            images=tuple(self._keys[s.position] for s in suspects),
            figures={"noise": round(value, 4), "low": round(low, 4), "high": round(high, 4)},
        )

    def _sides_with_stored(self, within: "_Within") -> bool:
        """Whether the drop itself contradicts its labels where the stored samples do.

        A classifier of the drop learns what most of its labels say: of right labels on strange images it sides with
        the labels, of wrong ones with the stored samples.
        """
        given, answers = self._drop.class_ids, self._of_drop.argmax(1)
        disputed = answers != given
        contradicts = int((within.answers[disputed] == answers[disputed]).sum())
        agrees = int((within.answers[disputed] == given[disputed]).sum())
        return contradicts + agrees >= _LEAST_COMPARED and contradicts >= _CONTRADICTED * (contradicts + agrees)

    def _other_kind(self, apart: float | None, within: "_Within") -> Judgement:
        size = min(len(self._stored), len(self._drop))
        among_stored = _within(Labelled(self._stored.features[:size], self._stored.class_ids[:size]), len(self._names))
        from_stored = agreement(self._of_drop.argmax(1), self._drop.class_ids, len(self._names))
        reported = Judgement(
            "drop",
            len(self._drop),
            separability=apart,
            learned=within.agreement.kappa,
            expected=among_stored.agreement.kappa,
            suspects=_suspects(within.explained, self._drop.class_ids, 0.1, self._names, self._compared),
            evidence=Evidence(self._compared, within.explained),
        )
        figures = {"learned": round(within.agreement.kappa, 4)}
        unlike = "too few stored images are like these to compare them"
        if apart is not None:
            figures["separability"] = round(apart, 4)
            unlike = f"the images are of another kind than the stored ones (told apart in {apart:.0%} of pairs)"
        if _unlearnable(within.agreement, among_stored.agreement) and from_stored.kappa < _LEARNABLE:
            message = (
                f"{unlike}, and their labels can hardly be learned: Cohen's kappa {within.agreement.kappa:.2f}, where "
                f"as many stored ones reach {among_stored.agreement.kappa:.2f}; approve the drop if they are right"
            )
            held = tuple(self._keys[s.position] for s in reported.suspects)
            return replace(
                reported, findings=(Finding("unlearnable_labels", message, holds=True, images=held, figures=figures),)
            )
        if (exchanged := renaming.find(self._of_drop.argmax(1), self._drop.class_ids, len(self._names))) is not None:
            return replace(reported, findings=(self._exchanged(unlike, exchanged),))
        message = f"{unlike}: the labels were only checked for being learnable within the drop"
        return replace(reported, findings=(Finding("other_kind", message, holds=False, figures=figures),))

    def _exchanged(self, unlike: str, exchange: renaming.Renaming) -> Finding:
        pairs = [
            f"`{self._names[g]}` look like the stored `{self._names[a]}`"
            for g, a in zip(exchange.given, exchange.likely, strict=True)
        ]
        more = f" and {len(pairs) - _PAIRS} more" if len(pairs) > _PAIRS else ""
        message = (
            f"classes look exchanged: images called {', '.join(pairs[:_PAIRS])}{more}; {unlike}, but with the classes "
            f"renamed so they agree (Cohen's kappa {exchange.renamed.kappa:.2f}, as given "
            f"{exchange.as_given.kappa:.2f}); approve the drop if the labels are right"
        )
        rows = np.asarray(exchange.positions, np.int64)
        evidence = self._of_drop[rows].max(1) - self._of_drop[rows, self._drop.class_ids[rows]]
        worst = rows[np.argsort(-evidence, kind="stable")][:MOST_SUSPECTS]
        figures = {"as_given": round(exchange.as_given.kappa, 4), "renamed": round(exchange.renamed.kappa, 4)}
        keys = tuple(self._keys[self._compared[i]] for i in worst)
        return Finding("exchanged_classes", message, holds=True, images=keys, figures=figures)


@dataclass(frozen=True, eq=False)
class _Within:
    """Held-out answers within a set: probabilities over shares, their agreement, and that of the surest tenth."""

    explained: Floats
    answers: Ids
    agreement: Agreement
    surest: Share


def _within(drop: Labelled, classes: int) -> _Within:
    held_out = np.concatenate(
        [
            Learner.fit(drop.features[i : i + _BLOCK], drop.class_ids[i : i + _BLOCK], classes).held_out
            for i in range(0, len(drop), _BLOCK)
        ]
    )
    answers = probabilities(held_out, sharpness(held_out, drop.class_ids))
    shares: Floats = np.bincount(drop.class_ids, minlength=classes).astype(np.float32) / np.float32(len(drop))
    surest = np.argsort(-answers.max(1), kind="stable")[: max(10, len(drop) // 10)]
    missed = float((answers[surest].argmax(1) != drop.class_ids[surest]).mean())
    error = float(np.sqrt(max(missed * (1 - missed), 1 / len(surest)) / len(surest)))
    kappa = agreement(held_out.argmax(1), drop.class_ids, classes)
    return _Within(noise.likelihoods(answers, shares), held_out.argmax(1), kappa, Share(missed, error))


def _unlearnable(within: Agreement, among_stored: Agreement) -> bool:
    """Whether the drop's labels agree clearly less than as many stored ones do, which must be learnable themselves."""
    powerful = among_stored.kappa > 2 * _SIGNIFICANT * among_stored.error
    return powerful and within.kappa + _SURE * within.error < _LEARNABLE * among_stored.kappa


def _alone(drop: Labelled, names: Sequence[str], keys: Sequence[str], limit: float) -> Judgement:
    """Without anything to compare with."""
    counts = np.bincount(drop.class_ids, minlength=len(names))
    rows = np.flatnonzero(counts[drop.class_ids] >= 2)
    if len(rows) < _LEAST_WITHIN or (counts >= 2).sum() < 2:
        return Judgement("nothing", 0)
    usable = Labelled(drop.features[rows], drop.class_ids[rows])
    within = _within(usable, len(names))
    value, _, high = _interval(within.surest)
    kappa = within.agreement.kappa
    suspects = _suspects(within.explained, usable.class_ids, min(value, limit), names, rows)
    evidence = Evidence(rows, within.explained)
    result = Judgement("drop", len(usable), value, 0.0, high, learned=kappa, suspects=suspects, evidence=evidence)
    images = tuple(keys[s.position] for s in suspects)
    figures = {"learned": round(kappa, 4), "noise": round(value, 4)}
    most = int(counts.max())
    if len(rows) >= 5 * _LEAST_WITHIN and most < 0.8 * len(rows) and kappa < _SIGNIFICANT * within.agreement.error:
        message = (
            f"the labels cannot be learned from the images (Cohen's kappa {kappa:.2f}): they look shuffled; "
            "approve the drop if they are right"
        )
        return replace(
            result, findings=(Finding("shuffled_labels", message, holds=True, images=images, figures=figures),)
        )
    if kappa >= _POWER and within.surest.value - _SURE * within.surest.error > limit:
        message = (
            f"up to {value:.0%} of the labels are wrong: so often disagree the surest answers, at most {limit:.0%} is "
            "accepted; look at the images named, and approve or reject the drop"
        )
        return replace(result, findings=(Finding("label_noise", message, holds=True, images=images, figures=figures),))
    if kappa < _POWER:
        message = (
            f"the labels can hardly be checked: within the drop they are learned at Cohen's kappa {kappa:.2f}, and "
            "nothing is stored to compare with"
        )
        return replace(result, findings=(Finding("not_checked", message, holds=False, figures=figures),))
    return result


def _interval(share: Share) -> tuple[float, float, float]:
    """The share with an interval of 95 %."""
    return share.value, max(0.0, share.value - 1.96 * share.error), min(1.0, share.value + 1.96 * share.error)


def _suspects(explained: Floats, given: Ids, share: float, names: Sequence[str], positions: Ids) -> tuple[Suspect, ...]:
    """Images that look more like another class, the most suspicious first; `probability` allows for the estimate."""
    wrong = noise.suspicion(explained, given, share)
    right = explained[np.arange(len(given)), given]
    order = np.lexsort((right, -wrong))
    likely = explained.argmax(1)
    worst = [int(i) for i in order if likely[i] != given[i]][:MOST_SUSPECTS]
    return tuple(Suspect(int(positions[i]), names[int(likely[i])], round(float(wrong[i]), 4)) for i in worst)
