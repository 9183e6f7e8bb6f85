"""Publishes a drop's validation report and its Data Docs to the store.

A Data Docs site is four megabytes, nearly all of it styles and fonts that never change, so they are
uploaded once and all drops share one site; each drop has its own entry page.
"""

import mimetypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ml.context import Context

SITE = "data-docs"


def key(drop_id: str) -> str:
    """The entry page of a drop's Data Docs."""
    return f"{SITE}/images/{drop_id}.html"


def publish(ctx: Context, drop_id: str, folder: Path, report: bytes) -> str:
    """Upload `report` and the sites `folder`/images and `folder`/drop; returns the entry page's key."""
    ctx.store.put(f"drops/{drop_id}/report.json", report, "application/json")
    uploads: list[tuple[str, Path]] = []
    for name in ("images", "drop"):
        site = folder / name
        shared = ctx.store.exists(f"{SITE}/{name}/static/complete")
        for path in site.rglob("*"):
            relative = path.relative_to(site)
            if path.is_file() and not (shared and relative.parts[0] == "static"):
                uploads.append((f"{SITE}/{name}/{relative.as_posix()}", path))
        uploads.append((f"{SITE}/{name}/{drop_id}.html", site / "index.html"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda upload: ctx.store.put_file(upload[0], upload[1], _content_type(upload[0])), uploads))
    for name in ("images", "drop"):
        ctx.store.put(f"{SITE}/{name}/static/complete", b"")
    return key(drop_id)


def _content_type(key: str) -> str:
    return mimetypes.guess_type(key)[0] or "application/octet-stream"
