"""The model card in Markdown."""

from collections.abc import Mapping

from ml.datasets.versions import DatasetVersion
from ml.models.bundle import BundleInfo, Reduced
from ml.training.data.plan import Plan
from ml.training.loop.evaluation import ClassRow, Evaluation
from ml.training.loop.recipe import Recipe

LONGEST = 4900
"""Maximum description length in MLflow's registry, in characters, with a margin."""
_SHOWN = 12


def text(
    info: BundleInfo,
    version: DatasetVersion,
    plan: Plan,
    recipe: Recipe,
    evaluation: Evaluation,
    origin: Mapping[str, str],
) -> str:
    """The text of the model card.

    Args:
        evaluation: on the validation samples; the gate's verdict on the holdout is added later, as version tags.
        origin: further facts, one per line, such as the source of the initial weights.
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
            f"On {len(evaluation.truth)} validation samples, which chose epoch and temperature and so flatter it:",
            "",
            f"- accuracy {evaluation.accuracy:.1%}, negative log-likelihood {evaluation.loss:.3f} nats, "
            f"expected calibration error {evaluation.calibration_error:.3f}",
            *_reduced(info),
            "",
            *_classes(evaluation.by_class()),
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
    """The card, shortened to a description of the registered version."""
    if len(card) <= LONGEST:
        return card
    return card[: card.rindex("\n", 0, LONGEST)] + "\n\n… the whole card is `model-card.md` of the run.\n"


def _reduced(info: BundleInfo) -> list[str]:
    return [
        f"- in {name.replace('int8', 'INT8')} it is right on {report.accuracy_loss:.2%} fewer, agrees on "
        f"{report.agreement:.1%}, and is {report.speedup:.1f} times as fast {_where(report)}"
        for name, report in info.reduced().items()
    ]


def _where(report: Reduced) -> str:
    """Where speed was measured and correctness verified."""
    speed = f"by {report.measured_on}" if report.measured_on else "where it was made"
    return f"{speed}, proven by {' and '.join(report.proven_on)}" if report.proven_on else speed


def _classes(rows: list[ClassRow]) -> list[str]:
    """A table of the classes; if there are many, those with the lowest recall."""
    evaluated = sorted((row for row in rows if row.recall is not None), key=lambda row: (row.recall, row.label))
    listed = evaluated[:_SHOWN] if len(rows) > _SHOWN else evaluated
    title = "By class:" if listed == evaluated else f"The {len(listed)} classes found least, of {len(rows)}:"
    if unseen := len(rows) - len(evaluated):
        title = f"{title[:-1]} ({unseen} without a validation sample):"
    lines = [
        f"| {_cell(row.label)} | {row.trained} | {row.judged} | {row.recall:.1%} | "
        f"{'' if row.precision is None else f'{row.precision:.1%}'} | {_cell(row.mostly_taken_for)} |"
        for row in listed
    ]
    head = "| class | trained | judged | recall | precision | mostly taken for |"
    return [title, "", head, "| --- | --: | --: | --: | --: | --- |", *lines]


def _cell(name: str) -> str:
    """Escape a label, which may be any text, for a table cell."""
    return name.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
