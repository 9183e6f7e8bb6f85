"""What a rename, merge or split of classes is refused for."""

from pathlib import Path

import pytest

from ml.datasets import classes
from ml.datasets.versions import Manifest
from ml.errors import ConflictError, InvalidInputError, NotFoundError

MANIFEST = Manifest((), {}, (), ("cat", "dog"), {"kitten": "cat"})


def test_a_class_must_exist() -> None:
    classes._require_classes(MANIFEST, ("cat", "dog"))
    with pytest.raises(NotFoundError, match="`cow` is not a class; the classes are cat, dog"):
        classes._require_classes(MANIFEST, ("cat", "cow"))
    with pytest.raises(NotFoundError, match="kitten"):
        classes._require_classes(MANIFEST, ("kitten",))


def test_a_retired_name_belongs_to_its_successor() -> None:
    classes._refuse_retired(MANIFEST, ("cow",))
    classes._refuse_retired(MANIFEST, ("kitten",), before=("cat",))  # the successor gets its old name back
    for before in ((), ("dog",)):
        with pytest.raises(ConflictError, match="`kitten` was renamed to `cat`"):
            classes._refuse_retired(MANIFEST, ("cow", "kitten"), before=before)


def test_a_table_of_new_labels_is_read_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes('\ufeffsha256,label,note\r\n aa ,tabby cat \r\nbb,"lynx, young",x\r\n'.encode())
    assert classes.read_table(path) == {"aa": "tabby cat", "bb": "lynx, young"}


@pytest.mark.parametrize("data", [b"sha256,class\naa,cat\n", b"sha256,label\naa\n", b"sha256,label\naa,\xff\n"])
def test_another_table_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="not a CSV table with the columns sha256,label"):
        classes.read_table(path)
