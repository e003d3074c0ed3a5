"""The table of known web applications."""

import pytest

from gateway.dialects.origin_table import origin_table


def test_origins_are_kept_as_browsers_spell_them() -> None:
    text = " https://App.Example = g22, http://localhost:8081=g30 ,https://x.example:443=gdv,http://[::1]:80=g21,,"
    assert origin_table(text) == {
        "https://app.example": "g22",
        "http://localhost:8081": "g30",
        "https://x.example": "gdv",
        "http://[::1]": "g21",
    }
    assert origin_table("") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("https://app.example", "does not end in =g21"),
        ("https://app.example=2.2", "does not end in =g21"),
        ("https://app.example=superset", "does not end in =g21"),
        ("https://app.example/=g22", "is no origin"),
        ("https://app.example/path=g22", "is no origin"),
        ("app.example=g22", "is no origin"),
        ("ftp://app.example=g22", "is no origin"),
        ("null=g22", "is no origin"),
        ("*=g22", "is no origin"),
        ("=g22", "is no origin"),
        ("https://me@app.example=g22", "is no origin"),
        ("https://app.example:0=g22", "is no origin"),
        ("https://app.example:99999=g22", "is no origin"),
        ("https://app.example=g22,https://APP.example:443=g30", "https://app.example is there twice"),
    ],
)
def test_what_is_no_table_is_refused_with_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        origin_table(text)
