"""Where blobs lie and how safe they are before they are acknowledged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Durability = Literal["second", "always"]

_BLOB_URL = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9.-]+)(?P<prefix>(/(?!\.+(/|$))[A-Za-z0-9_.-]+)*)/?")


class BlobSettings(BaseSettings):
    """A fragment: processes that keep blobs inherit it."""

    model_config = SettingsConfigDict(env_prefix="DISCO_", env_ignore_empty=True, frozen=True, extra="ignore")

    data_dir: Path = Field(Path("data"), description="Directory of the blobs; all processes share it.")
    durability: Durability = Field(
        "second",
        description="What a loss of power may take: the last second, or nothing that was acknowledged (always).",
    )
    blob_url: str = Field("", description="Object storage of the blobs: s3://bucket/prefix. Empty: the data directory.")
    s3_endpoint: str = Field("", description="URL of an S3-compatible server. Empty: Amazon S3.")
    s3_region: str = Field("us-east-1", description="Region of the bucket.")
    s3_access_key_id: str = Field("", description="Access key. Empty: what the environment of the host grants.")
    s3_secret_access_key: SecretStr = Field(SecretStr(""), description="The secret of that access key.")

    @property
    def bucket(self) -> str:
        """Of `blob_url`, which is not empty."""
        return self._blob_url()["bucket"]

    @property
    def prefix(self) -> str:
        """The folder in the bucket, of `blob_url`; may be empty."""
        return self._blob_url()["prefix"].removeprefix("/")

    def _blob_url(self) -> re.Match[str]:
        found = _BLOB_URL.fullmatch(self.blob_url)
        assert found is not None, "is checked when it is read"
        return found

    @field_validator("blob_url")
    @classmethod
    def _is_in_object_storage(cls, value: str) -> str:
        if value and not _BLOB_URL.fullmatch(value):
            raise ValueError("must be s3://bucket or s3://bucket/prefix")
        return value

    @field_validator("s3_endpoint")
    @classmethod
    def _is_a_web_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/]+/?", value):
            raise ValueError("must be http://host:port or https://host:port")
        return value.removesuffix("/")

    @model_validator(mode="after")
    def _access_key_has_its_secret(self) -> Self:
        if bool(self.s3_access_key_id) != bool(self.s3_secret_access_key.get_secret_value()):
            raise ValueError("DISCO_S3_ACCESS_KEY_ID and DISCO_S3_SECRET_ACCESS_KEY must be given together.")
        return self
