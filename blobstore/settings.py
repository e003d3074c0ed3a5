"""Where blobs lie and how safe they are before they are acknowledged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Durability = Literal["second", "always"]


class BlobSettings(BaseSettings):
    """A fragment: processes that keep blobs inherit it."""

    model_config = SettingsConfigDict(env_prefix="DISCO_", env_ignore_empty=True, frozen=True, extra="ignore")

    data_dir: Path = Field(Path("data"), description="Directory of the blobs; all processes share it.")
    durability: Durability = Field(
        "second",
        description="What a loss of power may take: the last second, or nothing that was acknowledged (always).",
    )
