"""Log lines as JSON, and access lines that nobody waits for."""

import logging

import orjson
import pytest

from serving.telemetry.logs import AccessLog, JsonFormatter, access_logger, with_fields


def line(message: str, *args: object, **options: object) -> dict[str, object]:
    record = logging.getLogger("x").makeRecord("x", logging.WARNING, "", 0, message, args, None, extra=options)
    entry: dict[str, object] = orjson.loads(JsonFormatter().format(record))
    return entry


def test_a_line_is_one_line_of_json_whatever_is_logged() -> None:
    entry = line("two\nlines %s \udcff", "\x1b[2J", **with_fields(request_id="r", odd=object(), path="\udcff"))
    assert entry["message"] == "two\nlines \x1b[2J ?"
    assert (entry["level"], entry["logger"], entry["request_id"], entry["path"]) == ("warning", "x", "r", "?")
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, "", 0, "m", (), True)  # type: ignore[arg-type]
        record.exc_info = __import__("sys").exc_info()
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert "ValueError: why" in orjson.loads(text)["exception"]


def test_access_lines_are_sampled_but_for_errors_and_bounded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.telemetry.logs._WAITING", 300)
    caplog.set_level(logging.INFO, access_logger.name)
    for share, expected in ((0.0, 0), (1e-9, 50), (1.0, 150)):
        caplog.clear()
        kept = AccessLog(share)
        for _ in range(100):
            kept.record(200, 0.001, method="GET", route="/x")
        for _ in range(50):
            kept.record(429, 0.001, method="GET", route="/x")
        kept._write()
        assert len(caplog.records) == expected
    caplog.clear()
    for _ in range(310):
        kept.record(200, 0.001, method="GET", route="/x")
    kept._write()
    assert len(caplog.records) == 301
    assert caplog.records[-1].getMessage().startswith("10 lines were dropped")
