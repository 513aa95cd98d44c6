import pytest

from dcgan_jax.config import UserError
from dcgan_jax.data.http_file import get_validator, is_continuation, parse_url


@pytest.mark.parametrize(
    "url", ["ftp://host/a.zip", "/a.zip", "https://user:word@host/a.zip", "http://[", "http://" + "x" * 70 + "/"]
)
def test_parse_url_other_address_is_refused(url):
    with pytest.raises(UserError, match="`url`") as caught:
        parse_url(url)
    assert "word" not in str(caught.value) or "password" in str(caught.value)


def test_parse_url_relative_redirect_stays_on_the_host():
    assert parse_url("../b.zip", "https://host/x/a.zip").url == "https://host/b.zip"


def test_get_validator_weak_etag_gives_the_date():
    assert get_validator({"ETag": '"one"', "Last-Modified": "today"}) == '"one"'
    assert get_validator({"ETag": 'W/"one"', "Last-Modified": "today"}) == "today"
    assert get_validator({}) == ""


@pytest.mark.parametrize(
    "headers, is_rest",
    [
        ({"Content-Range": "bytes 5-9/10"}, True),
        ({"Content-Range": "bytes 5-9/*"}, True),
        ({"Content-Range": "bytes 5-9/10", "ETag": '"one"'}, True),
        ({"Content-Range": "bytes 5-9/10", "ETag": '"two"'}, False),
        ({"Content-Range": "bytes 4-9/10"}, False),
        ({"Content-Range": "bytes 5-9/11"}, False),
        ({}, False),
    ],
)
def test_is_continuation_only_for_the_same_rest(headers, is_rest):
    assert is_continuation(headers, 5, {"length": 10, "validator": '"one"'}) == is_rest
