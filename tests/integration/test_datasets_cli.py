"""Versions as people see them: listed, compared, proven, rebuilt, exported."""

import hashlib
import tarfile
from pathlib import Path

import orjson
import pytest

from ml.context import Context
from ml.datasets import classes, contents, export, holdout, loader, verify, versions
from ml.datasets.splits import SPLITS
from ml.erasure import erase, selection
from ml.errors import ConflictError, NotFoundError
from ml.ingest import ingest
from tests.integration.test_cli import as_json, invoke
from tests.pictures import digit_files, upload

STRANGE = "a: *? %"


@pytest.fixture
def two(context: Context) -> tuple[Context, str, str]:
    """Two versions: 60 digits, then 40 more, ten of them of a class with a strange name."""
    ingest(context, upload(context, "one", digit_files(0, 60)))
    first = versions.latest(context)
    more = digit_files(60, 90)
    table = ["file,label", *(f'{k},"{k.split("/")[0]}"' for k in more)]
    strange = {f"x/{k.replace('/', '-')}": v for k, v in digit_files(90, 100).items()}
    table += [f'{k},"{STRANGE}ü"' for k in strange]
    ingest(context, upload(context, "two", more | strange | {"labels.csv": "\n".join(table).encode()}))
    second = versions.latest(context)
    assert first
    assert second
    return context, first.id, second.id


def truth(ctx: Context, version: str) -> dict[str, str]:
    """Sample → label, as training sees it."""
    labels: dict[str, str] = {}
    for split in SPLITS:
        part = loader.load(ctx, version, split, 24, 1)
        labels |= {d: part.classes[label] for d, label in zip(part.sha256, part.labels, strict=True)}
    return labels


def test_list_show_diff(two: tuple[Context, str, str]) -> None:
    ctx, first, second = two
    assert [(v["id"], v["train"] + v["validation"] + v["holdout"]) for v in as_json(ctx, "datasets", "list")] == [
        (second, 100),
        (first, 60),
    ]
    shown = as_json(ctx, "datasets", "show", second[:10])
    assert sum(sum(c.values()) for c in shown["counts"].values()) == 100
    assert (len(shown["drops"]), shown["cause"].startswith("drop d-")) == (2, True)
    difference = as_json(ctx, "datasets", "diff", first[:10], "newest")
    assert (sum(difference["added"].values()), difference["removed"], difference["relabelled"]) == (40, {}, [])
    assert as_json(ctx, "datasets", "diff", second, first)["removed"] == difference["added"]
    for command in (("list",), ("show",), ("diff", first), ("holdout",)):
        code, output = invoke(ctx, "datasets", *command, COLUMNS="80")
        assert code == 0
        assert max(map(len, output.splitlines())) <= 80


def test_a_difference_knows_relabels_and_renames_until_the_version_is_erased_from(context_with_mlflow: Context) -> None:
    ctx = context_with_mlflow
    ingest(ctx, upload(ctx, "one", digit_files(0, 60)))
    first = versions.latest(ctx)
    assert first
    was = truth(ctx, first.id)
    classes.rename(ctx, "3", "three", actor="ann", reason="x")
    one = next(d for d, label in was.items() if label == "7")
    classes.split(ctx, "7", {one: "seven"}, actor="ann", reason="x")
    newest = versions.latest(ctx)
    assert newest
    now = truth(ctx, newest.id)
    difference = contents.difference(ctx, first.id, newest.id)
    threes = sum(label == "3" for label in was.values())
    assert (difference.added, difference.removed) == ({}, {})
    assert difference.relabelled == {("3", "three"): threes, ("7", "seven"): 1}
    assert contents.counts(ctx, newest.id)["three"] and sum(now[d] != was[d] for d in now) == threes + 1  # noqa: PT018
    gone = [d for d, label in was.items() if label == "5"][:2]
    version = erase.erase(ctx, selection.of_hashes(gone), actor="ann", reason="x").version
    assert version
    assert truth(ctx, version) == {d: label for d, label in now.items() if d not in gone}
    with pytest.raises(NotFoundError, match="is gone: it was erased"):
        contents.difference(ctx, first.id, version)
    problems = list(verify.problems(ctx, first.id))
    assert len(problems) == 1
    assert "is gone: it was erased" in problems[0]


def test_a_version_is_rebuilt_bit_for_bit_from_its_id(two: tuple[Context, str, str]) -> None:
    ctx, _, second = two
    manifest = versions.manifest(ctx, second)
    assert [verify.repacked_id(ctx, s) for s in manifest.segments] == list(manifest.segments)
    assert hashlib.sha256(manifest.to_bytes()).hexdigest() == second


def test_damage_is_named_wherever_it_is(two: tuple[Context, str, str]) -> None:
    ctx, first, second = two
    assert as_json(ctx, "datasets", "verify")["problems"] == []
    segment = versions.manifest(ctx, second).segments[-1]
    stored = loader.stored_segment(ctx, segment)
    data = bytearray(ctx.store.get(stored.tar_key))
    chosen = loader.index(ctx, segment)[3]
    data[chosen["offset"] + 5] ^= 1
    ctx.store.put(stored.tar_key, bytes(data))
    code, output = invoke(ctx, "datasets", "verify", "--json")
    problems = orjson.loads(output)["problems"]
    assert code == 4
    assert len(problems) == 2
    assert stored.tar_key in problems[0]
    assert chosen["sha256"] in problems[1]
    assert list(verify.problems(ctx, first)) == [], "the other version is whole"


@pytest.mark.parametrize("form", ["class-folders", "webdataset", "huggingface"])
def test_an_export_holds_every_sample_with_its_label(
    two: tuple[Context, str, str], tmp_path: Path, form: export.ExportFormat
) -> None:
    ctx, _, second = two
    done = as_json(ctx, "datasets", "export", str(tmp_path / "out"), "--as", form)
    assert done["samples"] == 100
    assert exported(tmp_path / "out", form) == truth(ctx, second)
    with pytest.raises(ConflictError, match="exists already"):
        export.export(ctx, second, tmp_path / "out", form, SPLITS)


def exported(folder: Path, form: str) -> dict[str, str]:
    """Sample → label, from the bytes and names on disk."""
    labels: dict[str, str] = {}
    if form == "webdataset":
        for path in folder.glob("*.tar"):
            with tarfile.open(path) as tar:
                data = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
            images = {k: v for k, v in data.items() if k.endswith(".png")}
            labels |= {hashlib.sha256(v).hexdigest(): data[k[:-3] + "cls"].decode() for k, v in images.items()}
    elif form == "huggingface":
        for table in folder.glob("*/metadata.jsonl"):
            for line in table.read_bytes().splitlines():
                row = orjson.loads(line)
                labels[hashlib.sha256((table.parent / row["file_name"]).read_bytes()).hexdigest()] = row["label"]
    else:
        from urllib.parse import unquote

        for path in folder.glob("*/*/*"):
            labels[hashlib.sha256(path.read_bytes()).hexdigest()] = unquote(path.parent.name)
    return labels


@pytest.mark.parametrize("label", [".", "..", ".hidden", "a/b", "CON\\x", "ä" * 200, "end. ", "50%", "\u202e", "cat"])
def test_every_label_gives_a_folder_of_its_own(label: str) -> None:
    name = export.safe_name(label)
    assert "/" not in name
    assert name not in (".", "..", "")
    assert not name.startswith(".")
    assert len(name.encode()) <= 200
    assert name == label or label != "cat"


def test_the_holdout_is_frozen_once_and_its_use_is_counted(two: tuple[Context, str, str]) -> None:
    ctx, first, second = two
    assert [p.name for p in holdout.parts(ctx)] == ["growing"]
    as_json(ctx, "datasets", "freeze-holdout", first)
    as_json(ctx, "datasets", "freeze-holdout", first)
    with pytest.raises(ConflictError, match="frozen already"):
        holdout.freeze(ctx, second)
    frozen, growing = holdout.parts(ctx)
    one, two_ = versions.get(ctx, first), versions.get(ctx, second)
    assert (frozen.samples, growing.samples) == (one.holdout, two_.holdout - one.holdout)
    assert (frozen.uses, growing.uses) == (0, 0)
