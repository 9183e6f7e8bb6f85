"""Fast listings: minio-py's takes longer to build its result objects than the server takes to answer."""

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
    """An object of a listing; ``key`` is the full key, ``size`` is in bytes.

    A tuple, because a drop has tens of thousands and a dataclass takes four times as long to create.
    """

    key: str
    size: int
    etag: str
    modified: datetime | None


def list_objects(client: "Minio", bucket: str, prefix: str, *, recursive: bool = True) -> Iterator[ObjectInfo]:
    """All objects below `prefix` in key order; the next page is fetched while one is read.

    If not recursive: the objects directly below it and the folders, whose keys end in ``/``, page by page.

    Raises:
        UnavailableError: the server's answer is not a listing; errors of the client are passed on.
    """

    delimiter = "" if recursive else "/"

    def fetch(token: str | None) -> bytes:
        query = {"list-type": "2", "delimiter": delimiter, "encoding-type": "url", "max-keys": "1000", "prefix": prefix}
        # minio-py has no public method that signs and sends any request; this one has kept its name since version 7.
        response = client._execute("GET", bucket, query_params=query | ({"continuation-token": token} if token else {}))  # type: ignore[arg-type]
        return bytes(response.data)

    with ThreadPoolExecutor(1) as pool:
        page = pool.submit(fetch, None)
        while True:
            root = _parse(page.result(), bucket, prefix)
            namespace = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
            token = root.findtext(f"{namespace}NextContinuationToken")
            truncated = (root.findtext(f"{namespace}IsTruncated") or "").lower() == "true"
            if truncated and not token:
                raise UnavailableError(
                    f"s3://{bucket}/{prefix}: the object store's listing is truncated without a continuation token"
                )
            if truncated:
                page = pool.submit(fetch, token)
            encoded = root.findtext(f"{namespace}EncodingType") == "url"
            yield from (_object_info(item, len(namespace), encoded) for item in root.iterfind(f"{namespace}Contents"))
            for folder in root.iterfind(f"{namespace}CommonPrefixes/{namespace}Prefix"):
                yield ObjectInfo(unquote_plus(folder.text or "") if encoded else folder.text or "", 0, "", None)
            if not truncated:
                return


def _parse(data: bytes, bucket: str, prefix: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(data)  # noqa: S314 - our own object store's answer
    except ElementTree.ParseError as error:
        raise UnavailableError(
            f"s3://{bucket}/{prefix}: the object store's answer is not valid XML: {error}"
        ) from error


def _object_info(item: ElementTree.Element, namespace_length: int, encoded: bool) -> ObjectInfo:
    fields = {field.tag[namespace_length:]: field.text for field in item}
    key, modified = fields.get("Key") or "", fields.get("LastModified")
    return ObjectInfo(
        unquote_plus(key) if encoded else key,
        int(fields.get("Size") or 0),
        (fields.get("ETag") or "").strip('"'),
        datetime.fromisoformat(modified) if modified else None,
    )
