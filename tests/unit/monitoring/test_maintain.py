"""What housekeeping deletes, and what it keeps."""

import json
import os
import time
from datetime import date
from pathlib import Path

from ml.monitoring import maintain
from tests.doubles.context import memory_context


def test_images_of_days_before_the_horizon_are_deleted_and_no_others(tmp_path: Path) -> None:
    ctx = memory_context(tmp_path)
    old = ["predictions/2025/12/31/a.tar", "predictions/2026/02/28/b.tar", "predictions/2026/02/28/c.tar"]
    kept = [
        "predictions/2026/03/01/d.tar",
        "predictions/2026/03/02/e.tar",
        "predictions/2027/01/01/f.tar",
        "segments/2020/01/01/g.tar",
    ]
    for key in (*old, *kept):
        ctx.store.put(key, b"")
    assert maintain._delete_images(ctx, date(2026, 3, 1)) == len(old)
    assert [info.key for info in ctx.store.list()] == kept
    assert maintain._delete_images(ctx, date(2026, 3, 1)) == 0


def aged(path: Path, days: float) -> Path:
    then = time.time() - days * 86_400
    os.utime(path, (then, then))
    return path


def test_files_unread_for_a_month_leave_the_cache_but_not_the_bundle_that_served_last(tmp_path: Path) -> None:
    ctx = memory_context(tmp_path)
    cache, bundles = tmp_path / "cache" / "segments", tmp_path / "bundles"
    for folder in (cache, bundles / "old", bundles / "served", bundles / "new"):
        folder.mkdir(parents=True)
    (bundles / "last-good.json").write_text(json.dumps({"bundle_digest": "served"}))
    for name in ("old.tar", "new.tar"):
        (cache / name).write_bytes(b"x")
    for path in (bundles / "old", bundles / "served", bundles / "last-good.json", cache / "old.tar"):
        aged(path, 31)
    for path in (bundles / "new", cache / "new.tar"):
        aged(path, 29)
    assert maintain._trim_cache(ctx) == 2
    assert sorted(path.name for path in bundles.iterdir()) == ["last-good.json", "new", "served"]
    assert [path.name for path in cache.iterdir()] == ["new.tar"]


def test_a_file_that_was_read_lately_stays_however_old_it_is(tmp_path: Path) -> None:
    ctx = memory_context(tmp_path)
    path = tmp_path / "cache" / "segments" / "a.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    now = time.time()
    os.utime(path, (now, now - 90 * 86_400))
    assert maintain._trim_cache(ctx) == 0
    assert path.exists()
