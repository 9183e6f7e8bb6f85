"""Drops judged against the drops before them, and before they are uploaded."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from sqlalchemy import select, text

from ml.catalog.engine import transaction
from ml.catalog.tables import drops, quarantine, samples, validations
from ml.context import Context
from ml.ingest import ingest
from ml.intake import dry_run, history
from ml.label_checks import stage as label_checks
from tests.integration.test_cli import as_json, invoke
from tests.pictures import digit_files, digits, png, upload

BLANK = png(np.zeros((8, 8), np.uint8))


def rows(ctx: Context, table: Any) -> list[dict[str, Any]]:
    with transaction(ctx.engine) as connection:
        return [dict(r) for r in connection.execute(select(table)).mappings()]


def judged(ctx: Context) -> dict[str, dict[str, Any]]:
    """What was kept of each drop's validation, by the drop's prefix."""
    kept = {row["subject"]: row for row in rows(ctx, validations) if row["suite"] == "drop"}
    return {d["prefix"]: kept[d["id"]] for d in rows(ctx, drops)}


def test_each_drop_keeps_its_figures_and_later_ones_are_compared_with_them(context: Context) -> None:
    for i in range(3):
        ingest(context, upload(context, f"n{i}", digit_files(i * 100, i * 100 + 100)))
    foxes = {f"{'fox' if i < 40 else 0}/{i}.png": _bright(i) for i in range(60)}
    ingest(context, upload(context, "bright", foxes))
    by_drop = judged(context)
    assert {d["status"] for d in rows(context, drops)} == {"accepted"}
    usual, bright = by_drop["drops/n2/"], by_drop["drops/bright/"]
    assert (usual["passed"], usual["failures"], usual["warnings"]) == (True, [], [])
    assert usual["figures"]["class_shift"] < 0.2
    assert usual["figures"]["size_ratio"] is None
    assert bright["figures"]["size_ratio"] == pytest.approx(0.6)
    assert bright["figures"]["brightness_shift"] > 4
    assert "brightness" in " ".join(bright["warnings"])
    assert "mix of classes" in " ".join(bright["warnings"])
    assert bright["figures"]["unknown_share"] == pytest.approx(2 / 3)
    assert "classes that are new" in " ".join(bright["warnings"])
    report = orjson.loads(context.store.get(f"drops/{bright['subject']}/report.json"))
    assert report["warnings"] == bright["warnings"]
    assert b"Accepted, with a warning" in context.store.get(bright["report_key"])


def _bright(seed: int) -> bytes:
    return png(np.random.default_rng(seed).integers(235, 256, (8, 8), dtype=np.uint8))


def test_label_shares_cost_no_more_when_the_store_grows(context: Context) -> None:
    ingest(context, upload(context, "one", digit_files(0, 10)))
    (first, *_) = rows(context, samples)
    with transaction(context.engine) as connection:
        connection.execute(
            text(
                "insert into samples (sha256, group_id, split, label, drop_id, segment_id, width, height) "
                "select md5(i::text) || md5(i::text), md5(i::text), 'train', (i % 4)::text, :drop, :segment, 8, 8 "
                "from generate_series(1, 120000) i"
            ),
            {"drop": first["drop_id"], "segment": first["segment_id"]},
        )
    shares = history.read(context.engine).shares
    assert sum(shares.values()) == pytest.approx(1)
    assert all(abs(shares[str(i)] - 0.25) < 0.02 for i in range(4))
    assert history.read(context.engine).shares == shares


def _folder(root: Path, files: dict[str, bytes]) -> Path:
    for key, data in files.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_a_dry_run_says_what_intake_would_and_leaves_no_trace(context: Context, tmp_path: Path) -> None:
    ingest(context, upload(context, "one", digit_files(0, 30)))
    files = {**digit_files(20, 60), "0/broken.png": b"no image", "1/blank.png": BLANK, "fox/1.png": digits()[70][1]}
    before = [sorted(o.key for o in bucket.list()) for bucket in (context.labels, context.store)]
    report = as_json(context, "validate", str(_folder(tmp_path / "pictures", files)))
    assert [sorted(o.key for o in bucket.list()) for bucket in (context.labels, context.store)] == before
    assert len(rows(context, drops)) == 1
    ingest(context, upload(context, "pictures", files))
    (real,) = [d for d in rows(context, drops) if d["prefix"] == "drops/pictures/"]
    assert (report["images"], report["good"], report["duplicates"]) == (
        real["images"],
        real["accepted"],
        real["duplicates"],
    )
    assert report["quarantined"] == {r["key"]: r["reasons"] for r in rows(context, quarantine)}
    assert report["figures"] == judged(context)["drops/pictures/"]["figures"]
    assert report["left_out"] is None


def test_a_dry_run_needs_no_server_and_refuses_with_exit_code_4(context: Context, tmp_path: Path) -> None:
    root = _folder(tmp_path / "bad", {"a/1.png": b"x", "a/2.png": b"y", "b/3.png": digits()[0][1]})
    nowhere = {
        "EVERGREEN_DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/nothing",
        "EVERGREEN_S3_ENDPOINT": "http://127.0.0.1:1",
    }
    code, output = invoke(context, "validate", str(root), **nowhere)
    assert code == 4
    assert "without history" in output
    assert "would be rejected: at least half of the images must be good" in output
    assert "not an image of a known format" in output
    code, output = invoke(context, "validate", str(_folder(tmp_path / "good", digit_files(0, 9))), **nowhere)
    assert code == 0
    assert "would be accepted: 9 good" in output


def test_a_dry_run_hears_of_every_image(context: Context, tmp_path: Path) -> None:
    small = replace(context, settings=context.settings.model_copy(update={"inspect_bytes": 4 * 8192}))
    heard: list[tuple[int, int]] = []
    dry_run.run(
        small,
        _folder(tmp_path / "p", digit_files(0, 10)),
        lambda *n: heard.append(n),
        partial(label_checks.preview, small),
    )
    assert heard == [(4, 10), (8, 10), (10, 10)]


def test_a_rejected_drop_is_kept_with_its_words_and_is_no_history(context: Context) -> None:
    ingest(context, upload(context, "bad", {"a/1.png": b"x", "b/2.png": b"y"}))
    (kept,) = rows(context, validations)
    assert not kept["passed"]
    assert "share of good ones is 0" in kept["failures"][0]
    page = context.store.get(kept["report_key"]).decode()
    assert "Rejected: at least half of the images must be good" in page
    assert "a/1.png" in page
    assert history.read(context.engine).drops == ()
