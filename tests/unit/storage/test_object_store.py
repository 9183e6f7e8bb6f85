from pathlib import Path

import pytest

from ml.errors import InvalidInputError
from ml.settings import Settings
from ml.storage import object_store


def test_an_empty_secret_names_the_settings(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="EVERGREEN_S3_SECRET_KEY"):
        object_store.connect(Settings.load({"EVERGREEN_HOME": str(tmp_path)}), "labels")


@pytest.mark.parametrize("value", ["127.0.0.1:9000", "http://host:9000/path?x=1"])
def test_an_unusable_address_names_the_setting(value: str) -> None:
    with pytest.raises(InvalidInputError, match="EVERGREEN_S3_ENDPOINT"):
        Settings.load({"EVERGREEN_S3_ENDPOINT": value})
