"""Great Expectations over a frame: a suite from a YAML file, failures in the file's own words."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ml.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

KEY = "key"


@dataclass
class Verdict:
    """What a suite said of a frame.

    Attributes:
        reasons: for each failing row's `key`, the broken expectations in words.
        failed: one entry an expectation that did not hold: type, kwargs, reason, keys.
    """

    success: bool
    reasons: dict[str, list[str]] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)


def judge(suite_file: Path, frame: "pd.DataFrame", docs: Path | None = None, run_name: str = "") -> Verdict:
    """Validate `frame` (with a unique column `key`) against the suite; optionally build Data Docs in `docs`.

    Raises:
        InvalidInputError: the file is missing, no suite, or names a column or expectation that does not exist.
    """
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction, ValidationAction
    from great_expectations.core import ExpectationSuite, RunIdentifier
    from great_expectations.exceptions.exceptions import GreatExpectationsError

    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    actions: list[ValidationAction] = []
    if docs is not None:
        context.add_data_docs_site("docs", _site(docs))
        actions = [UpdateDataDocsAction(name="docs", site_names=["docs"])]
    try:
        body = yaml.safe_load(suite_file.read_text())
        suite = context.suites.add(ExpectationSuite(**body))
    except (OSError, yaml.YAMLError, TypeError, ValueError, GreatExpectationsError) as error:
        raise InvalidInputError(f"{suite_file} is no readable expectation suite: {error}") from error
    batch = context.data_sources.add_pandas("frames").add_dataframe_asset(body["name"])
    definition = gx.ValidationDefinition(
        name=f"{body['name']}", data=batch.add_batch_definition_whole_dataframe("whole"), suite=suite
    )
    checkpoint = gx.Checkpoint(
        name=body["name"],
        validation_definitions=[context.validation_definitions.add(definition)],
        actions=actions,
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [KEY]},
    )
    run = checkpoint.run(batch_parameters={"dataframe": frame}, run_id=RunIdentifier(run_name=run_name or None))
    (result,) = run.run_results.values()
    return _verdict(suite_file, result)


def _verdict(suite_file: Path, result: Any) -> Verdict:
    verdict = Verdict(success=bool(result.success))
    for outcome in result.results:
        if outcome.success:
            continue
        config = outcome.expectation_config
        column = config.kwargs.get("column")
        if "unexpected_index_list" not in outcome.result:
            raise InvalidInputError(
                f"{suite_file}: {config.type} on `{column}` cannot be judged: {_exception(outcome)}"
            )
        words = (config.meta or {}).get(
            "reason"
        ) or f"{column} breaks {config.type} {_limits(config.kwargs)}: {{value}}"
        rows = outcome.result["unexpected_index_list"] or []
        for row in rows:
            verdict.reasons.setdefault(str(row[KEY]), []).append(words.replace("{value}", _plain(row.get(column))))
        verdict.failed.append(
            {"type": config.type, "column": column, "reason": words, "keys": [str(row[KEY]) for row in rows]}
        )
    return verdict


def _exception(outcome: Any) -> str:
    info = outcome.exception_info or {}
    nested = info.values() if info and all(isinstance(v, dict) for v in info.values()) else [info]
    return "; ".join(str(i.get("exception_message", "")).strip() for i in nested) or "no reason given"


def _limits(kwargs: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in kwargs.items() if k not in ("column", "batch_id"))


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }
