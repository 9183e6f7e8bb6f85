"""Listings of many objects. minio-py's own takes longer to build its objects than the server to answer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from ml.errors import UnavailableError

if TYPE_CHECKING:
    from minio import Minio


class ObjectInfo(NamedTuple):
    """What a listing says about an object; ``key`` is the whole key, ``size`` in bytes.

    A tuple, because a drop has tens of thousands and a dataclass takes four times as long to make.
    """

    key: str
    size: int
    etag: str
    modified: datetime | None


def below(client: "Minio", bucket: str, prefix: str, *, recursive: bool = True) -> Iterator[ObjectInfo]:
    """All objects below `prefix` in key order; the next page is fetched while one is read.

    Not recursive: the objects there and, with keys that end in ``/``, the folders, page by page.

    Raises:
        UnavailableError: the server's answer is no listing; the client's errors are passed on.
    """

    delimiter = "" if recursive else "/"

    def fetch(token: str | None) -> bytes:
        query = {"list-type": "2", "delimiter": delimiter, "encoding-type": "url", "max-keys": "1000", "prefix": prefix}
        # The client's one way to sign and send a request and to tell errors apart, by that name since its version 7.
        answer = client._execute("GET", bucket, query_params=query | ({"continuation-token": token} if token else {}))  # type: ignore[arg-type]
        return bytes(answer.data)

    with ThreadPoolExecutor(1) as pool:
        page = pool.submit(fetch, None)
        while True:
            root = _parsed(page.result(), bucket, prefix)
            space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
            token = root.findtext(f"{space}NextContinuationToken")
            more = (root.findtext(f"{space}IsTruncated") or "").lower() == "true"
            if more and not token:
                raise UnavailableError(f"s3://{bucket}/{prefix}: the object store's listing breaks off")
            if more:
                page = pool.submit(fetch, token)
            encoded = root.findtext(f"{space}EncodingType") == "url"
            yield from (_info(item, len(space), encoded) for item in root.iterfind(f"{space}Contents"))
            for folder in root.iterfind(f"{space}CommonPrefixes/{space}Prefix"):
                yield ObjectInfo(unquote_plus(folder.text or "") if encoded else folder.text or "", 0, "", None)
            if not more:
                return


def _parsed(data: bytes, bucket: str, prefix: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(data)  # noqa: S314 - our own object store's answer
    except ElementTree.ParseError as error:
        raise UnavailableError(f"s3://{bucket}/{prefix}: the object store answered nonsense: {error}") from error


def _info(item: ElementTree.Element, space: int, encoded: bool) -> ObjectInfo:
    told = {field.tag[space:]: field.text for field in item}
    key, modified = told.get("Key") or "", told.get("LastModified")
    return ObjectInfo(
        unquote_plus(key) if encoded else key,
        int(told.get("Size") or 0),
        (told.get("ETag") or "").strip('"'),
        datetime.fromisoformat(modified) if modified else None,
    )
