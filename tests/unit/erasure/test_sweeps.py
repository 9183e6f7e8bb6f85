"""Each store's search and removal, on buckets in memory."""

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.versions import Manifest
from ml.erasure import bundles, locate, runs, samples, staged, uploads
from ml.erasure.content import Content, Swept, matching
from ml.erasure.selection import of_hashes, of_prediction
from ml.errors import InvalidInputError, UnavailableError
from ml.imaging import images
from ml.imaging.images import Limits
from ml.intake import staging_tars, thumbnails
from ml.intake.staging_tars import StagingTar
from ml.models import bundle
from ml.storage import tar_members
from tests.bundles import make_bundle
from tests.doubles.context import memory_context
from tests.unit.datasets.stored import A1, A2, A3, B1, B2, Picture, store_changed, store_manifest, store_segment

SECRET, OTHER = A2, A1
CONTENT = Content(frozenset({SECRET.sha256}), frozenset({len(SECRET.png)}))


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return memory_context(tmp_path)


def test_objects_are_told_by_their_content_and_only_those_of_its_size_are_read(ctx: Context) -> None:
    ctx.store.put("a", SECRET.png)
    ctx.store.put("b", SECRET.png + b"x")
    ctx.store.put("c", bytes(len(SECRET.png)))
    assert [i.key for i in matching(ctx.store, ctx.store.list(), CONTENT)] == ["a"]
    assert ctx.store.read_keys == ["a", "c"]  # type: ignore[attr-defined]
    unknown = Content(CONTENT.hashes, None)
    assert [i.key for i in matching(ctx.store, ctx.store.list(), unknown)] == ["a"]
    assert ctx.store.read_keys[2:] == ["a", "b", "c"]  # type: ignore[attr-defined]


def test_a_large_object_is_read_in_parts(ctx: Context) -> None:
    data = bytes(9_000_000)
    ctx.store.put("large", data)
    wanted = Content(frozenset({hashlib.sha256(data).hexdigest()}), frozenset({len(data)}))
    assert [i.key for i in matching(ctx.store, ctx.store.list(), wanted)] == ["large"]
    assert len(ctx.store.read_keys) == 2  # type: ignore[attr-defined]


def test_uploads_of_any_drop_are_deleted_and_archives_are_found(ctx: Context) -> None:
    ctx.labels.put("drops/one/a/1.png", SECRET.png)
    ctx.labels.put("drops/two/x.img", SECRET.png)
    ctx.labels.put("drops/two/other.png", OTHER.png)
    ctx.labels.put("elsewhere/1.png", SECRET.png)
    ctx.labels.put("drops/three/broken.zip", b"no archive")
    ctx.labels.put("drops/three/packed.zip", zipped(OTHER, SECRET))
    ctx.labels.put("drops/three/harmless.zip", zipped(OTHER))
    ctx.labels.put("drops/four/plain.tar", tarred(OTHER, SECRET))
    dry_run = uploads.sweep(ctx, CONTENT, remove=False)
    assert (dry_run.objects, len(dry_run.notes)) == (4, 1)
    assert "broken.zip` could not be searched" in dry_run.notes[0]
    ctx.labels.put("drops/three/_READY", b"")
    ctx.labels.put("drops/four/_READY", b"")
    swept = uploads.sweep(ctx, CONTENT, remove=True)
    assert swept.objects == 2
    assert [sentence.partition(" holds")[0] for sentence in swept.left] == [
        "the upload `drops/four/plain.tar`",
        "the upload `drops/three/packed.zip`",
    ], "their drops are not ingested yet"
    assert [info.key for info in ctx.labels.list() if info.key.endswith((".png", ".img"))] == [
        "drops/two/other.png",
        "elsewhere/1.png",
    ]


def test_staging_tars_lose_the_image_and_keep_every_place(ctx: Context, tmp_path: Path) -> None:
    tar = StagingTar(tmp_path / "tar")
    places = {p: tar.add(p.sha256, "PNG", p.png) for p in (A1, SECRET, A3)}
    tar.close()
    key = staging_tars.key("d-1", 0)
    ctx.store.put_file(key, tar.path)
    ctx.store.put("drops/d-1/report.json", b"{}")
    grey = {p: bytes([number]) * thumbnails.BYTES for number, p in enumerate(places)}
    rows = [{"packed": places[p], "sha256": p.sha256, "thumbnail": grey[p]} for p in places]
    ctx.store.put(thumbnails.key("d-1", 0), thumbnails.encode(rows))
    assert staged.sweep(ctx, CONTENT, remove=False) == Swept(2, len(SECRET.png) + thumbnails.BYTES)
    assert staged.sweep(ctx, CONTENT, remove=True) == Swept(2, len(SECRET.png) + thumbnails.BYTES)
    assert staged.sweep(ctx, CONTENT, remove=True) == Swept()
    asked = np.array([*places.values(), places[A3]])
    pixels, known = thumbnails.read(ctx, "d-1", np.array([0, 0, 0, 7]), asked)
    assert known.tolist() == [True, False, True, False], "what is erased, or of a chunk without thumbnails, is unknown"
    assert [pixels[i].tobytes() for i in (0, 2)] == [grey[A1], grey[A3]]
    data = ctx.store.get(key)
    assert SECRET.png not in data
    for other in (A1, A3):
        assert data[places[other] + tar_members.HEADER :].startswith(other.png)
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        assert [m.name for m in opened] == [f"{A1.sha256}.png", "erased", f"{A3.sha256}.png"]


def test_a_run_loses_its_sheet_of_mistakes_and_the_row(ctx: Context) -> None:
    shown, harmless = "artifacts/1/r1/artifacts", "artifacts/1/r2/artifacts"
    for folder, digest in ((shown, SECRET.sha256), (harmless, OTHER.sha256)):
        ctx.artifacts.put(f"{folder}/mistakes.csv", f"sha256,p\n{digest},0.1\n{A3.sha256},0.2\n".encode())
        ctx.artifacts.put(f"{folder}/plots/mistakes.png", b"picture")
    assert runs.sweep(ctx, CONTENT, remove=False).objects == 2
    assert runs.sweep(ctx, CONTENT, remove=True) == Swept(2, len(b"picture"))
    assert runs.sweep(ctx, CONTENT, remove=True) == Swept()
    assert ctx.artifacts.get(f"{shown}/mistakes.csv").decode() == f"sha256,p\n{A3.sha256},0.2\n"
    assert not ctx.artifacts.exists(f"{shown}/plots/mistakes.png")
    assert ctx.artifacts.exists(f"{harmless}/plots/mistakes.png")


def test_a_store_that_is_away_is_an_error_and_not_an_empty_store(ctx: Context) -> None:
    ctx.labels.available = ctx.artifacts.available = False  # type: ignore[attr-defined]
    for sweep in (uploads.sweep, runs.sweep):
        with pytest.raises(UnavailableError):
            sweep(ctx, CONTENT, remove=False)


def test_bundles_whose_probes_show_the_image_are_found_and_cut(ctx: Context, tmp_path: Path) -> None:
    segment = store_segment(ctx, [A1, SECRET, A3])
    folder = tmp_path / "bundle"
    make_bundle(folder, ["a", "b"], size=8, channels=1)
    info = bundle.parse((folder / bundle.INFO).read_bytes())
    shown = images.decode(SECRET.png, 8, 1, Limits(10**6, 10**6))
    probes, probabilities = bundle.load_probes((folder / bundle.PROBES).read_bytes())
    probes[2] = shown
    np.savez(folder / bundle.PROBES, images=probes, probabilities=probabilities)
    digest = bundle.write(folder, info)
    for version, prefix in ((1, "models/1"), (2, "models/2")):
        for path in folder.iterdir():
            ctx.artifacts.put_file(f"{prefix}/{path.name}", path)
        ctx.registry.add(version, prefix, digest)  # type: ignore[attr-defined]
    make_bundle(tmp_path / "other", ["a", "b"], size=8, channels=1)
    ctx.artifacts.put_file("models/2/probes.npz", tmp_path / "other" / bundle.PROBES)
    affected = bundles.find(ctx, [1, 2, 3], [segment], {SECRET.sha256, A1.sha256})
    assert list(affected) == ["1"], "only images of the validation split become probes"
    data, removed = bundles._cut(ctx.artifacts.get("models/1/probes.npz"), affected["1"])
    kept, expected = bundle.load_probes(data)
    assert removed == 1
    assert np.array_equal(kept, probes[[0, 1, 3]])
    assert np.array_equal(expected, probabilities[[0, 1, 3]])
    assert bundles._cut(data, affected["1"]) == (data, 0)
    assert bundles.sweep(ctx, affected, remove=False).objects == 1


def test_versions_that_learned_from_an_image_are_told_from_those_that_only_held_it(ctx: Context) -> None:
    whole = [store_segment(ctx, [A1, A2, A3]), store_segment(ctx, [B1, B2])]
    manifest = Manifest(tuple(whole), {}, (), ("a", "b"))
    without_b1 = versions.read_manifest(ctx.store, store_changed(ctx, manifest))
    store_manifest(ctx, replace(manifest, segments=manifest.segments[:1]))
    of_b1 = [{B1.sha256: ("train", 1)}]
    assert locate.learned_from(manifest, of_b1)
    assert not locate.learned_from(without_b1, of_b1), "it was removed from that version"
    assert not locate.learned_from(manifest, [{A3.sha256: ("holdout", 1)}]), "the holdout never reaches training"
    assert not locate.learned_from(manifest, [])


def test_what_remains_of_a_segment_is_the_rest_in_order(ctx: Context) -> None:
    segment = store_segment(ctx, [A1, A2, A3])
    rest = list(samples.remaining(ctx, segment, {A2.sha256, B1.sha256}))
    assert [row["sha256"] for row, _ in rest] == [A1.sha256, A3.sha256]
    assert all(picture.png in bytes(member) for (_, member), picture in zip(rest, (A1, A3), strict=True))


def test_the_cache_is_left_alone_while_the_catalog_is_away(ctx: Context) -> None:
    segment = store_segment(ctx, [A1])
    with pytest.raises(UnavailableError):
        loader.drop_erased(ctx)
    assert loader.index(ctx, segment)


@pytest.mark.parametrize("wrong", ["", "abc", "z" * 64, "a" * 63, "../etc/passwd"])
def test_what_is_no_hash_or_id_is_said(wrong: str) -> None:
    with pytest.raises(InvalidInputError, match="is no SHA-256"):
        of_hashes([wrong])
    with pytest.raises(InvalidInputError, match="is no prediction id"):
        of_prediction(wrong)


def zipped(*pictures: Picture) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for picture in pictures:
            archive.writestr(f"a/{picture.shade}.png", picture.png)
    return buffer.getvalue()


def tarred(*pictures: Picture) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for picture in pictures:
            member = tarfile.TarInfo(f"a/{picture.shade}.png")
            member.size = len(picture.png)
            archive.addfile(member, io.BytesIO(picture.png))
    return buffer.getvalue()
