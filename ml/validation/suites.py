"""Validates a data frame with Great Expectations: suites from YAML files, failures as the messages those files give."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ml.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

KEY = "key"
_MAX_VALUE_LENGTH = 300  # characters of a value quoted in a reason
_CONDITIONS = {"row_condition", "condition_parser"}  # arguments of an expectation that name further columns
_MAX_EXAMPLES = 5  # reasons listed with the keys


@dataclass
class SuiteResult:
    """The result of a suite for a frame.

    Attributes:
        reasons: messages of the expectations that each failing row breaks, by the row's `key`.
        overall: messages of the broken expectations about the frame as a whole (a mean, a row count).
        warnings: messages of broken expectations of severity warning or info.
        failed: one entry per broken expectation: type, column, reason, severity, all keys, examples.
        result: Great Expectations' result object, for Data Docs.
    """

    success: bool
    reasons: dict[str, list[str]] = field(default_factory=dict)
    overall: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    result: Any = None

    @property
    def messages(self) -> list[str]:
        """Messages of all rows and of the whole, for a frame whose rows need not be distinguished."""
        return [*(reason for reasons in self.reasons.values() for reason in reasons), *self.overall]


def validate(suite_file: Path, frame: "pd.DataFrame") -> SuiteResult:
    """Validate `frame` (with a unique column `key`) against the suite.

    Raises:
        InvalidInputError: the file is missing, is not a suite, or names a column or expectation that does not exist.
    """
    import great_expectations as gx

    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    suite = context.suites.add(_read(suite_file))
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset(suite.name)
    definition = gx.ValidationDefinition(
        name=suite.name, data=asset.add_batch_definition_whole_dataframe("whole"), suite=suite
    )
    result = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [KEY]},
    )
    return _to_suite_result(suite_file, result)


def columns(suite_file: Path) -> frozenset[str] | None:
    """The columns that the suite's expectations use; None if one of them may use any column.

    Raises:
        InvalidInputError: the file is missing, or is not a suite.
    """
    all_kwargs = [e.configuration.kwargs for e in _read(suite_file).expectations]
    if any("column" not in kwargs or kwargs.keys() & _CONDITIONS for kwargs in all_kwargs):
        return None
    return frozenset(kwargs["column"] for kwargs in all_kwargs)


def single_row_frame(figures: dict[str, Any]) -> "pd.DataFrame":
    """Figures as a frame of one row that a suite can validate; None stays None, and passes."""
    import pandas as pd

    return pd.DataFrame([{KEY: "all", **figures}]).astype(object).where(lambda f: f.notna(), None)


def _read(suite_file: Path) -> Any:
    """Read the suite, adding one expectation at a time: created at once, it would silently skip unknown ones."""
    from great_expectations.core import ExpectationSuite
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        body = yaml.safe_load(suite_file.read_text())
        suite, entries = ExpectationSuite(str(body["name"])), list(body["expectations"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"{suite_file} is not a valid expectation suite: {error!r}; it needs a `name` and a list of `expectations`"
        ) from error
    for number, entry in enumerate(entries, 1):
        try:
            suite.add_expectation_configuration(ExpectationConfiguration(**entry))
        except (TypeError, ValueError, AttributeError, GreatExpectationsError) as error:
            kind = entry.get("type") if isinstance(entry, dict) else entry
            message = " ".join(str(error).split())
            raise InvalidInputError(f"{suite_file}, expectation {number} ({kind}) cannot be used: {message}") from error
    return suite


def _to_suite_result(suite_file: Path, result: Any) -> SuiteResult:
    suite_result = SuiteResult(success=True, result=result)
    for outcome in result.results:
        if outcome.success:
            continue
        config = outcome.expectation_config
        message = (config.meta or {}).get("reason") or _describe(config)
        keys, reasons = _failures(suite_file, outcome, str(message))
        severity = str(getattr(config.severity, "value", config.severity) or "critical")
        suite_result.failed.append(
            {"type": config.type, "column": config.kwargs.get("column"), "reason": message}
            | {"severity": severity, "keys": keys, "found": reasons[:_MAX_EXAMPLES]}
        )
        if severity != "critical":  # only reported
            suite_result.warnings.append(_summarize(keys, reasons))
            continue
        suite_result.success = False
        for key, reason in zip(keys, reasons, strict=True) if keys else ():
            suite_result.reasons.setdefault(key, []).append(reason)
        suite_result.overall += [] if keys else reasons
    return suite_result


def _failures(suite_file: Path, outcome: Any, message: str) -> tuple[list[str], list[str]]:
    """Keys of the failing rows and a reason for each; no keys and one reason if it concerns the frame as a whole."""
    config = outcome.expectation_config
    if "unexpected_index_list" in outcome.result:
        column, rows = config.kwargs.get("column"), outcome.result["unexpected_index_list"] or []
        return [str(r[KEY]) for r in rows], [message.replace("{value}", _format(r.get(column))) for r in rows]
    if "observed_value" in outcome.result:
        return [], [message.replace("{value}", _format(outcome.result["observed_value"]))]
    raise InvalidInputError(f"{suite_file}: {_describe(config)} cannot be evaluated: {_exception_message(outcome)}")


def _summarize(keys: list[str], reasons: list[str]) -> str:
    return f"{len(keys)} images, such as {keys[0]}: {reasons[0]}" if len(keys) > 1 else "; ".join(reasons)


def _describe(config: Any) -> str:
    limits = ", ".join(f"{k} {v}" for k, v in config.kwargs.items() if k not in ("column", "batch_id"))
    return f"{config.type} of {config.kwargs.get('column', 'the whole')} ({limits}); found {{value}}"


def _exception_message(outcome: Any) -> str:
    info = outcome.exception_info or {}
    nested = info.values() if info and all(isinstance(v, dict) for v in info.values()) else [info]
    return "; ".join(str(i.get("exception_message", "")).strip() for i in nested) or "no reason given"


def _format(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}…"
