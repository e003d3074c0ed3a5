"""Where blobs lie comes from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from blobstore.settings import BlobSettings


def test_without_settings_blobs_lie_in_data_and_a_second_may_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISCO_DATA_DIR", "DISCO_DURABILITY"):
        monkeypatch.setenv(name, "")
    assert BlobSettings() == BlobSettings(data_dir=Path("data"), durability="second")


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_DATA_DIR", "/var/lib/disco")
    monkeypatch.setenv("DISCO_DURABILITY", "always")
    assert BlobSettings() == BlobSettings(data_dir=Path("/var/lib/disco"), durability="always")


def test_another_durability_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_DURABILITY", "sometimes")
    with pytest.raises(ValidationError):
        BlobSettings()


NAMES = ("BLOB_URL", "S3_ENDPOINT", "S3_REGION", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY")


def read(monkeypatch: pytest.MonkeyPatch, **values: str) -> BlobSettings:
    for name in NAMES:
        monkeypatch.setenv(f"DISCO_{name}", values.get(name, ""))
    return BlobSettings()


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://models", "models", ""),
        ("s3://models/", "models", ""),
        ("s3://our.models/a/b-c_d.e/", "our.models", "a/b-c_d.e"),
        ("s3://Old-Bucket/..a", "Old-Bucket", "..a"),
    ],
)
def test_bucket_and_prefix_come_from_the_address(
    monkeypatch: pytest.MonkeyPatch, url: str, bucket: str, prefix: str
) -> None:
    settings = read(monkeypatch, BLOB_URL=url)
    assert (settings.bucket, settings.prefix, settings.s3_region) == (bucket, prefix, "us-east-1")


@pytest.mark.parametrize(
    "url",
    [
        "models",
        "s3://",
        "s3:///a",
        "gs://models",
        "s3://models/a//b",
        "s3://models/..",
        "s3://models/./a",
        "s3://m/a b",
        "s3://models/~conditions",
        "s3://key:secret@models/a",
    ],
)
def test_any_other_address_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(ValidationError, match="must be s3://bucket or s3://bucket/prefix"):
        read(monkeypatch, BLOB_URL=url)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "s3://host", "http://", "https://host/bucket", "http://a b"])
def test_an_endpoint_is_a_web_address_without_a_path(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    assert read(monkeypatch, S3_ENDPOINT="http://127.0.0.1:9000/").s3_endpoint == "http://127.0.0.1:9000"
    with pytest.raises(ValidationError, match="must be http://host:port or https://host:port"):
        read(monkeypatch, S3_ENDPOINT=endpoint)


def test_an_access_key_and_its_secret_are_given_together(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, S3_ACCESS_KEY_ID="key", S3_SECRET_ACCESS_KEY="very secret")
    assert settings.s3_secret_access_key.get_secret_value() == "very secret"
    assert "very secret" not in repr(settings)
    for lonely in ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"):
        with pytest.raises(ValidationError, match="must be given together"):
            read(monkeypatch, **{lonely: "very secret"})
