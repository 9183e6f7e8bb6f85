"""A drop's id follows its content and nothing else."""

from dataclasses import replace

from ml.intake.listing import Listing
from ml.storage.object_store import ObjectInfo

ONE = Listing("drops/one/", (ObjectInfo("a/1.png", 10, "e1", None), ObjectInfo("b/2.png", 20, "e2", None)))


def test_the_id_changes_with_anything_that_matters() -> None:
    first, second = ONE.files
    others = [
        replace(ONE, prefix="drops/two/"),
        replace(ONE, hint="labels_csv"),
        replace(ONE, files=(first,)),
        replace(ONE, files=(first, second._replace(key="b/3.png"))),
        replace(ONE, files=(first, second._replace(size=21))),
        replace(ONE, files=(first, second._replace(etag="e3"))),
    ]
    assert len({o.drop_id for o in [ONE, *others]}) == 1 + len(others)


def test_the_id_is_stable() -> None:
    assert ONE.drop_id == Listing("drops/one/", ONE.files).drop_id
    assert ONE.drop_id == "d-" + ONE.digest[:16]
