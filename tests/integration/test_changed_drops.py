"""What is put into an accepted drop later is told once, and is in no dataset."""

from collections.abc import Iterator
from dataclasses import replace

from infra.demo import watch
from ml.catalog.markers import READY
from ml.context import Context
from ml.datasets import versions
from ml.ingest import ingest
from ml.intake import changed
from ml.storage.object_store import ObjectInfo, ObjectStore
from tests.doubles.object_store import ForwardingObjectStore
from tests.pictures import digit_files, digits, upload


def test_added_and_replaced_files_are_told_once(context: Context) -> None:
    files = digit_files(0, 20)
    prefix = upload(context, "one", files)
    version = ingest(context, prefix).version
    upload(context, "rejected", {"x/a.png": b"no image"})
    ingest(context, "drops/rejected/")
    assert changed.report(context) == []
    context.labels.put(prefix + next(iter(files)), digits()[50][1])
    context.labels.put(f"{prefix}5/new.png", digits()[51][1])
    context.labels.put("drops/rejected/x/b.png", digits()[52][1])
    (words,) = changed.report(context)
    assert words.startswith(f"{prefix} was changed after it was accepted: 2 files")
    assert "5/new.png" in words
    assert changed.report(context) == []
    latest = versions.latest(context)
    assert latest
    assert latest.id == version


def test_deleting_an_accepted_drop_is_no_change_and_a_new_marker_is_an_ingest(context: Context) -> None:
    gone, again = (upload(context, name, digit_files(i * 20, i * 20 + 20)) for i, name in enumerate(("a", "b")))
    ingest(context, gone)
    ingest(context, again)
    context.labels.delete([o.key for o in context.labels.list(gone)])
    context.labels.put(f"{again}5/new.png", digits()[60][1])
    context.labels.put(f"{again}_READY", b"")
    assert changed.report(context) == []
    assert ingest(context, again).version


class _NoTagsAtFirst(ForwardingObjectStore):
    """Its first listing of a drop has no ETags, as of a server that fails to hash what it lists."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self._looked = 0

    def list(self, prefix: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        self._looked += not recursive  # the folders of a drop are listed first
        objects = super().list(prefix, recursive)
        return (o._replace(etag="") for o in objects) if self._looked == 1 else objects


def test_a_listing_that_changes_by_itself_costs_a_claim_and_nothing_else(context: Context) -> None:
    prefix = upload(context, "odd", digit_files(0, 20))
    first = ingest(replace(context, labels=_NoTagsAtFirst(context.labels)), prefix)
    assert first.version
    assert context.labels.exists(prefix + READY)
    again = ingest(context, prefix)
    assert again.drop_id != first.drop_id
    assert again.version is None
    assert not context.labels.exists(prefix + READY)
    assert [version.id for version in versions.all_versions(context.engine)] == [first.version]
    followed = watch._read_cycle(context.engine, prefix)
    assert followed
    assert followed.drop.id == first.drop_id
