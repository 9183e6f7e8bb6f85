"""Great Expectations over a frame: a suite from a YAML file, failures in the file's own words."""

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ml.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

KEY = "key"
_LONGEST = 300  # of a value quoted in a reason


@dataclass
class Verdict:
    """What a suite said of a frame.

    Attributes:
        reasons: for each failing row's `key`, the broken expectations in words.
        overall: expectations of the frame as a whole (a mean, a row count) that it breaks, in words.
        failed: one entry an expectation that did not hold: type, kwargs, reason, keys.
    """

    success: bool
    reasons: dict[str, list[str]] = field(default_factory=dict)
    overall: list[str] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)


def judge(suite_file: Path, frame: "pd.DataFrame", docs: Path | None = None, run_name: str = "") -> Verdict:
    """Validate `frame` (with a unique column `key`) against the suite; optionally build Data Docs in `docs`.

    Raises:
        InvalidInputError: the file is missing, no suite, or names a column or expectation that does not exist.
    """
    import great_expectations as gx
    from great_expectations.core import ExpectationSuite, RunIdentifier
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    try:
        body = yaml.safe_load(suite_file.read_text())
        suite = ExpectationSuite(body["name"])
        for entry in body["expectations"]:  # one by one, as a suite made at once leaves out what it does not know
            suite.add_expectation_configuration(ExpectationConfiguration(**entry))
        suite = context.suites.add(suite)
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError, GreatExpectationsError) as error:
        raise InvalidInputError(f"{suite_file} is no readable expectation suite: {error}") from error
    batch = context.data_sources.add_pandas("frames").add_dataframe_asset(body["name"])
    definition = gx.ValidationDefinition(
        name=f"{body['name']}", data=batch.add_batch_definition_whole_dataframe("whole"), suite=suite
    )
    checkpoint = gx.Checkpoint(
        name=body["name"],
        validation_definitions=[context.validation_definitions.add(definition)],
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [KEY]},
    )
    run = checkpoint.run(batch_parameters={"dataframe": frame}, run_id=RunIdentifier(run_name=run_name or None))
    ((identifier, result),) = run.run_results.items()
    verdict = _verdict(suite_file, result)
    if docs is not None:
        for outcome in result.results:
            outcome.result = _escaped(outcome.result)
        context.validation_results_store.set(identifier, result)
        context.add_data_docs_site("docs", _site(docs))
        context.build_data_docs(site_names=["docs"])
    return verdict


def _verdict(suite_file: Path, result: Any) -> Verdict:
    verdict = Verdict(success=True)
    for outcome in result.results:
        if outcome.success:
            continue
        config = outcome.expectation_config
        column, words = config.kwargs.get("column"), (config.meta or {}).get("reason") or _described(config)
        keys: list[str] = []
        if "unexpected_index_list" in outcome.result:
            rows = outcome.result["unexpected_index_list"] or []
            keys = [str(row[KEY]) for row in rows]
            reasons = [words.replace("{value}", _plain(row.get(column))) for row in rows]
        elif "observed_value" in outcome.result:
            reasons = [words.replace("{value}", _plain(outcome.result["observed_value"]))]
        else:
            raise InvalidInputError(f"{suite_file}: {_described(config)} cannot be judged: {_exception(outcome)}")
        verdict.failed.append({"type": config.type, "column": column, "reason": words, "keys": keys})
        if config.severity not in (None, "critical"):  # the others are only reported
            continue
        verdict.success = False
        for key, reason in zip(keys, reasons, strict=True) if keys else ():
            verdict.reasons.setdefault(key, []).append(reason)
        verdict.overall += [] if keys else reasons
    return verdict


def _described(config: Any) -> str:
    limits = ", ".join(f"{k} {v}" for k, v in config.kwargs.items() if k not in ("column", "batch_id"))
    return f"{config.type} of {config.kwargs.get('column', 'the whole')} ({limits}); found {{value}}"


def _exception(outcome: Any) -> str:
    info = outcome.exception_info or {}
    nested = info.values() if info and all(isinstance(v, dict) for v in info.values()) else [info]
    return "; ".join(str(i.get("exception_message", "")).strip() for i in nested) or "no reason given"


def _escaped(value: Any) -> Any:
    """Data Docs put values into their pages as they are, and file names and labels come from outside."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {_escaped(k): _escaped(v) for k, v in value.items()}
    return [_escaped(v) for v in value] if isinstance(value, list | tuple) else value


def _plain(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }
