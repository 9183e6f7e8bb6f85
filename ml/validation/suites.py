"""Great Expectations over a frame: a suite from a YAML file, failures in the file's own words."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ml.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

KEY = "key"
_LONGEST = 300  # of a value quoted in a reason
_WIDE = {"row_condition", "condition_parser"}  # arguments of an expectation that name further columns
_EXAMPLES = 5  # of reasons that stand beside the keys


@dataclass
class SuiteResult:
    """What a suite said of a frame.

    Attributes:
        reasons: for each failing row's `key`, the broken expectations in words.
        overall: expectations of the frame as a whole (a mean, a row count) that it breaks, in words.
        warnings: what an expectation of severity warning or info found, in words.
        failed: one entry an expectation that did not hold: type, column, reason, severity, all keys, examples.
        result: Great Expectations' own, for Data Docs.
    """

    success: bool
    reasons: dict[str, list[str]] = field(default_factory=dict)
    overall: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    result: Any = None

    @property
    def words(self) -> list[str]:
        """All that it breaks, in words: for a frame whose rows need not be told apart."""
        return [*(words for reasons in self.reasons.values() for words in reasons), *self.overall]


def judge(suite_file: Path, frame: "pd.DataFrame") -> SuiteResult:
    """Validate `frame` (with a unique column `key`) against the suite.

    Raises:
        InvalidInputError: the file is missing, no suite, or names a column or expectation that does not exist.
    """
    import great_expectations as gx

    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    suite = context.suites.add(_read(suite_file))
    batch = context.data_sources.add_pandas("frames").add_dataframe_asset(suite.name)
    definition = gx.ValidationDefinition(
        name=suite.name, data=batch.add_batch_definition_whole_dataframe("whole"), suite=suite
    )
    result = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [KEY]},
    )
    return _verdict(suite_file, result)


def columns(suite_file: Path) -> frozenset[str] | None:
    """What the suite's expectations are about; None if one of them may look at any column.

    Raises:
        InvalidInputError: the file is missing, or no suite.
    """
    kwargs = [e.configuration.kwargs for e in _read(suite_file).expectations]
    if any("column" not in told or told.keys() & _WIDE for told in kwargs):
        return None
    return frozenset(told["column"] for told in kwargs)


def one_row(figures: dict[str, Any]) -> "pd.DataFrame":
    """Figures as the frame of one row that a suite judges; None stays None, and passes."""
    import pandas as pd

    return pd.DataFrame([{KEY: "all", **figures}]).astype(object).where(lambda f: f.notna(), None)


def _read(suite_file: Path) -> Any:
    """The suite, added one expectation at a time: made at once it would leave out what it does not know."""
    from great_expectations.core import ExpectationSuite
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        body = yaml.safe_load(suite_file.read_text())
        suite, entries = ExpectationSuite(str(body["name"])), list(body["expectations"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"{suite_file} is no readable expectation suite: {error!r}; it needs a `name` and a list of `expectations`"
        ) from error
    for number, entry in enumerate(entries, 1):
        try:
            suite.add_expectation_configuration(ExpectationConfiguration(**entry))
        except (TypeError, ValueError, AttributeError, GreatExpectationsError) as error:
            kind = entry.get("type") if isinstance(entry, dict) else entry
            why = " ".join(str(error).split())
            raise InvalidInputError(f"{suite_file}, expectation {number} ({kind}) cannot be used: {why}") from error
    return suite


def _verdict(suite_file: Path, result: Any) -> SuiteResult:
    verdict = SuiteResult(success=True, result=result)
    for outcome in result.results:
        if outcome.success:
            continue
        config = outcome.expectation_config
        words = (config.meta or {}).get("reason") or _described(config)
        keys, reasons = _found(suite_file, outcome, str(words))
        severity = str(getattr(config.severity, "value", config.severity) or "critical")
        verdict.failed.append(
            {"type": config.type, "column": config.kwargs.get("column"), "reason": words}
            | {"severity": severity, "keys": keys, "found": reasons[:_EXAMPLES]}
        )
        if severity != "critical":  # the others are only reported
            verdict.warnings.append(_summed_up(keys, reasons))
            continue
        verdict.success = False
        for key, reason in zip(keys, reasons, strict=True) if keys else ():
            verdict.reasons.setdefault(key, []).append(reason)
        verdict.overall += [] if keys else reasons
    return verdict


def _found(suite_file: Path, outcome: Any, words: str) -> tuple[list[str], list[str]]:
    """Keys of the failing rows and a reason for each; no keys and one reason if it concerns the whole."""
    config = outcome.expectation_config
    if "unexpected_index_list" in outcome.result:
        column, rows = config.kwargs.get("column"), outcome.result["unexpected_index_list"] or []
        return [str(r[KEY]) for r in rows], [words.replace("{value}", _plain(r.get(column))) for r in rows]
    if "observed_value" in outcome.result:
        return [], [words.replace("{value}", _plain(outcome.result["observed_value"]))]
    raise InvalidInputError(f"{suite_file}: {_described(config)} cannot be judged: {_exception(outcome)}")


def _summed_up(keys: list[str], reasons: list[str]) -> str:
    return f"{len(keys)} images, such as {keys[0]}: {reasons[0]}" if len(keys) > 1 else "; ".join(reasons)


def _described(config: Any) -> str:
    limits = ", ".join(f"{k} {v}" for k, v in config.kwargs.items() if k not in ("column", "batch_id"))
    return f"{config.type} of {config.kwargs.get('column', 'the whole')} ({limits}); found {{value}}"


def _exception(outcome: Any) -> str:
    info = outcome.exception_info or {}
    nested = info.values() if info and all(isinstance(v, dict) for v in info.values()) else [info]
    return "; ".join(str(i.get("exception_message", "")).strip() for i in nested) or "no reason given"


def _plain(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
