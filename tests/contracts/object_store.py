"""What every `ObjectStore` does. A subclass with the fixtures `store` and `other_store` runs the tests."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml.errors import NotFoundError
from ml.storage.object_store import ObjectStore, reader_pool

ODD_KEYS = (
    "a b/c d.png",
    "100%/50%25.png",
    "1+1=2.png",
    "äöü/猫.png",
    "😀.png",
    "quotes'\"&<x>.png",
    "semi;colon,comma@at$dollar!.png",
    "question?mark#hash.png",
    "[brackets]{braces}~tilde^caret.png",
    " leading and trailing ",
)


def keys_of(store: ObjectStore, prefix: str = "", recursive: bool = True) -> list[str]:
    return [info.key for info in store.list(prefix, recursive)]


class ObjectStoreContract:
    @pytest.fixture
    def store(self) -> ObjectStore:
        """An empty bucket."""
        raise NotImplementedError

    @pytest.fixture
    def other_store(self) -> ObjectStore:
        """Another empty bucket of the same server."""
        raise NotImplementedError

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 300])
    def test_an_object_is_read_as_it_was_put(self, store: ObjectStore, data: bytes) -> None:
        store.put("a/b", data)
        assert store.get("a/b") == data
        info = store.info("a/b")
        assert (info.key, info.size, info.etag) == ("a/b", len(data), hashlib.md5(data).hexdigest())
        assert info.modified is not None
        assert info.modified.tzinfo is not None

    def test_put_replaces_an_object(self, store: ObjectStore) -> None:
        store.put("a", b"longer than the next")
        store.put("a", b"new")
        assert store.get("a") == b"new"
        assert [(info.key, info.size) for info in store.list()] == [("a", 3)]

    def test_a_missing_object_is_not_found(self, store: ObjectStore, tmp_path: Path) -> None:
        store.put("a/b", b"1")
        for key in ("missing", "a", "a/", "a/b/c"):
            for call in (
                lambda key=key: store.get(key),
                lambda key=key: store.get(key, 0, 1),
                lambda key=key: store.info(key),
                lambda key=key: store.get_file(key, tmp_path / "target"),
                lambda key=key: store.copy(key, "copied"),
            ):
                with pytest.raises(NotFoundError):
                    call()
            assert not store.exists(key)
        assert store.exists("a/b")
        assert list(tmp_path.iterdir()) == []
        assert keys_of(store) == ["a/b"]

    @pytest.mark.parametrize("key", ["", "..", "a/../b", "a/./b"])
    def test_a_key_that_clients_change_is_refused(self, store: ObjectStore, key: str) -> None:
        for call in (lambda: store.put(key, b"1"), lambda: store.get(key), lambda: store.info(key)):
            with pytest.raises(NotFoundError, match="not a valid key"):
                call()

    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [(0, 0, b"0123456789"), (0, 4, b"0123"), (3, 4, b"3456"), (3, 0, b"3456789"), (8, 5, b"89"), (9, 1, b"9")],
    )
    def test_a_range_ends_with_the_object(self, store: ObjectStore, offset: int, length: int, expected: bytes) -> None:
        store.put("a", b"0123456789")
        assert store.get("a", offset, length) == expected

    @pytest.mark.parametrize(("offset", "length"), [(10, 1), (10, 0), (11, 0), (99, 5)])
    def test_a_range_behind_the_end_is_not_found(self, store: ObjectStore, offset: int, length: int) -> None:
        store.put("a", b"0123456789")
        with pytest.raises(NotFoundError):
            store.get("a", offset, length)

    def test_an_empty_object_has_no_range(self, store: ObjectStore) -> None:
        store.put("a", b"")
        with pytest.raises(NotFoundError):
            store.get("a", 0, 1)

    def test_files_go_up_and_come_down(self, store: ObjectStore, tmp_path: Path) -> None:
        data = bytes(range(256)) * 24_000  # 6 MB: more than one part of a multipart upload
        (tmp_path / "source").write_bytes(data)
        store.put_file("a/b", tmp_path / "source")
        (tmp_path / "target").write_bytes(b"an older file")
        store.get_file("a/b", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == data
        assert store.get("a/b", len(data) - 3) == data[-3:]

    def test_many_objects_are_read_in_the_order_of_their_keys_argument(self, store: ObjectStore) -> None:
        keys = [f"n/{(7 * n) % 100}" for n in range(100)]
        for key in keys[:50]:
            store.put(key, key.encode())
        with reader_pool() as pool:
            for results in (list(store.get_many(keys)), list(store.get_many(iter(keys), pool))):
                assert results[:50] == [key.encode() for key in keys[:50]]
                assert [type(result) for result in results[50:]] == [NotFoundError] * 50
        assert list(store.get_many([])) == []

    def test_a_listing_is_in_the_order_of_the_keys_bytes(self, store: ObjectStore) -> None:
        ordered = ["B", "a-b", "a/1", "a/10", "a/2", "ab", "b", "é", "猫"]
        for key in reversed(ordered):
            store.put(key, key.encode())
        infos = list(store.list())
        assert [info.key for info in infos] == ordered
        assert [info.size for info in infos] == [len(key.encode()) for key in ordered]
        assert [info.etag for info in infos] == [hashlib.md5(key.encode()).hexdigest() for key in ordered]

    def test_a_prefix_need_not_end_at_a_slash(self, store: ObjectStore) -> None:
        for key in ("drops/one/1", "drops/one/2", "drops/one-more/3", "other"):
            store.put(key, b"")
        assert keys_of(store, "drops/one/") == ["drops/one/1", "drops/one/2"]
        assert keys_of(store, "drops/one") == ["drops/one-more/3", "drops/one/1", "drops/one/2"]
        assert keys_of(store, "drops/one/1") == ["drops/one/1"]
        assert keys_of(store, "missing/") == []

    def test_a_listing_that_is_not_recursive_has_folders(self, store: ObjectStore) -> None:
        for key in ("d/a.txt", "d/sub/1", "d/sub/2", "d/sub/deeper/3", "d/z.txt", "e/4"):
            store.put(key, b"x")
        infos = list(store.list("d/", recursive=False))
        assert sorted(info.key for info in infos) == ["d/a.txt", "d/sub/", "d/z.txt"]
        (folder,) = [info for info in infos if info.key.endswith("/")]
        assert (folder.size, folder.etag, folder.modified) == (0, "", None)
        assert sorted(keys_of(store, "", recursive=False)) == ["d/", "e/"]
        assert keys_of(store, "d/sub/deeper/", recursive=False) == ["d/sub/deeper/3"]

    def test_a_listing_is_longer_than_a_page_of_the_server(self, store: ObjectStore) -> None:
        keys = [f"n/{n:04}" for n in range(1_001)] + [f"n/folder-{n}/x" for n in range(3)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b""), keys))
        assert keys_of(store, "n/") == keys
        folders = [f"n/folder-{n}/" for n in range(3)]
        assert sorted(keys_of(store, "n/", recursive=False)) == keys[:1_001] + folders

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_a_key_may_hold_any_character(self, store: ObjectStore, other_store: ObjectStore, key: str) -> None:
        data = key.encode()
        store.put(key, data)
        assert keys_of(store) == [key]
        assert store.get(key) == data
        assert list(store.get_many([key])) == [data]
        assert store.info(key).key == key
        other_store.copy(key, f"copies/{key}", source_bucket=store.bucket)
        assert keys_of(other_store, "copies/") == [f"copies/{key}"]
        assert other_store.get(f"copies/{key}") == data
        store.delete([key])
        assert keys_of(store) == []

    def test_keys_that_decode_to_one_another_are_two(self, store: ObjectStore) -> None:
        for key in ("a b", "a+b", "a%20b", "a%2Bb"):
            store.put(key, key.encode())
        assert keys_of(store) == ["a b", "a%20b", "a%2Bb", "a+b"]
        for key in ("a b", "a+b", "a%20b", "a%2Bb"):
            assert store.get(key) == key.encode()

    def test_a_copy_is_independent_and_replaces(self, store: ObjectStore) -> None:
        store.put("a", b"1")
        store.put("b", b"2")
        store.copy("a", "b")
        store.put("a", b"3")
        assert (store.get("a"), store.get("b")) == (b"3", b"1")

    def test_a_copy_comes_from_the_bucket_that_is_named(self, store: ObjectStore, other_store: ObjectStore) -> None:
        other_store.put("a", b"other")
        store.copy("a", "b", source_bucket=other_store.bucket)
        assert store.get("b") == b"other"
        with pytest.raises(NotFoundError):
            store.copy("a", "c")
        with pytest.raises(NotFoundError):
            store.copy("b", "c", source_bucket=other_store.bucket)
        assert keys_of(store) == ["b"]

    def test_deleting_a_missing_object_is_no_error(self, store: ObjectStore) -> None:
        for key in ("a", "b", "c"):
            store.put(key, b"")
        store.delete(iter(["a", "missing", "c"]))
        assert keys_of(store) == ["b"]
        store.delete([])
        store.delete(["b", "b"])
        assert keys_of(store) == []
