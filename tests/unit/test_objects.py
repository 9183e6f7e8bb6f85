import pytest

from ml import objects
from ml.errors import InvalidInputError
from ml.settings import Settings


@pytest.mark.parametrize(
    ("variable", "value"),
    [("S3_SECRET_KEY", ""), ("S3_ENDPOINT", "127.0.0.1:9000"), ("S3_ENDPOINT", "http://host:9000/path?x=1")],
)
def test_an_unusable_address_or_secret_names_the_settings(variable: str, value: str) -> None:
    with pytest.raises(InvalidInputError, match=f"EVERGREEN_{variable}"):
        settings = Settings.load({"EVERGREEN_S3_SECRET_KEY": "secret", f"EVERGREEN_{variable}": value})
        objects.connect(settings, "labels")
