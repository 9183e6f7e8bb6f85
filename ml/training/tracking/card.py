"""The model card: what a person should know of a model before they use it, in Markdown."""

from collections.abc import Mapping

from ml.datasets.versions import DatasetVersion
from ml.models.bundle import BundleInfo, Reduced
from ml.training.data.plan import Plan
from ml.training.loop.evaluation import ClassRow, Evaluation
from ml.training.loop.recipe import Recipe

LONGEST = 4900
"""Characters that MLflow's registry takes as a description, with a margin."""
_SHOWN = 12


def text(
    info: BundleInfo, version: DatasetVersion, plan: Plan, recipe: Recipe, told: Evaluation, origin: Mapping[str, str]
) -> str:
    """The card.

    Args:
        told: on the validation samples; the gate's verdict on the holdout comes later, as tags of the version.
        origin: further facts a line each, such as where the network started from.
    """
    return "\n".join(
        (
            f"# Image classifier, {len(info.labels)} classes",
            "",
            f"Answers which of {len(info.labels)} labels an image shows, with calibrated probabilities. Trained by "
            f"Evergreen on dataset version {version.number}; whether it may answer in production is decided by the "
            "gate on the holdout, see this version's tags.",
            "",
            "## Figures",
            f"On {len(told.truth)} validation samples, which chose epoch and temperature and so flatter it:",
            "",
            f"- accuracy {told.accuracy:.1%}, negative log-likelihood {told.loss:.3f} nats, "
            f"expected calibration error {told.calibration_error:.3f}",
            *_reduced(info),
            "",
            *_classes(told.by_class()),
            "",
            "## Data",
            f"- dataset version `{version.id}` (number {version.number}, made by {version.cause})",
            f"- {version.train} training, {version.validation} validation and {version.holdout} holdout samples; "
            f"learned from {len(plan.chosen)}",
            f"- plan: {plan.mode}, because: {plan.reason}; {plan.new} new samples, {plan.replayed} replayed",
            "",
            "## Making",
            f"- {info.architecture}, input {info.image_size} × {info.image_size} px, "
            f"{'grey' if info.channels == 1 else 'colour'}",
            f"- {recipe.optimizer}, learning rate {recipe.learning_rate:g}, at most {recipe.epochs} epochs, batches of "
            f"{recipe.batch_size}, augmentation {recipe.augmentation}, seed {recipe.seed}",
            *(f"- {name}: {value}" for name, value in origin.items()),
            f"- code `{info.code_version}`, run `{info.run_id}`",
            "",
            "## Limits",
            "- It answers one of its labels to every image, also to one that shows none of them.",
            "- Its figures hold for images like those it was made from; monitoring watches for others.",
            "",
        )
    )


def short(card: str) -> str:
    """The card as a description of a registered version."""
    if len(card) <= LONGEST:
        return card
    return card[: card.rindex("\n", 0, LONGEST)] + "\n\n… the whole card is `model-card.md` of the run.\n"


def _reduced(info: BundleInfo) -> list[str]:
    return [
        f"- in {name.replace('int8', 'INT8')} it is right on {found.accuracy_loss:.2%} fewer, agrees on "
        f"{found.agreement:.1%}, and is {found.speedup:.1f} times as fast {_where(found)}"
        for name, found in info.reduced().items()
    ]


def _where(found: Reduced) -> str:
    """Where speed and rightness were found."""
    speed = f"by {found.measured_on}" if found.measured_on else "where it was made"
    return f"{speed}, proven by {' and '.join(found.proven_on)}" if found.proven_on else speed


def _classes(rows: list[ClassRow]) -> list[str]:
    """A table of the classes, of many the ones found least."""
    judged = sorted((row for row in rows if row.recall is not None), key=lambda row: (row.recall, row.label))
    shown = judged[:_SHOWN] if len(rows) > _SHOWN else judged
    title = "By class:" if shown == judged else f"The {len(shown)} classes found least, of {len(rows)}:"
    if unseen := len(rows) - len(judged):
        title = f"{title[:-1]} ({unseen} without a validation sample):"
    lines = [
        f"| {_cell(row.label)} | {row.trained} | {row.judged} | {row.recall:.1%} | "
        f"{'' if row.precision is None else f'{row.precision:.1%}'} | {_cell(row.mostly_taken_for)} |"
        for row in shown
    ]
    head = "| class | trained | judged | recall | precision | mostly taken for |"
    return [title, "", head, "| --- | --: | --: | --: | --: | --- |", *lines]


def _cell(name: str) -> str:
    """A label, which may be any text, as part of a table."""
    return name.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
