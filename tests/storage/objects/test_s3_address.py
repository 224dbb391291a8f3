"""How a bucket is named, which keys open it, and where its links lead."""

from urllib.parse import parse_qs, urlsplit

import pytest

from limner.core.errors import EngineUnavailable, NotConfigured
from limner.storage.objects.s3 import s3_objects
from limner.storage.objects.s3_address import Address, read_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("s3://pictures", Address("pictures", None, None, "us-east-1", "a", "b")),
        ("s3://my.bucket-1/", Address("my.bucket-1", None, None, "us-east-1", "a", "b")),
        (
            "s3://b-1?endpoint=http://minio:9000/&region=auto&public_endpoint=https://cdn.test",
            Address("b-1", "http://minio:9000", "https://cdn.test", "auto", "a", "b"),
        ),
        (
            "s3://b-1?endpoint=https%3A%2F%2Fx.test%2Fstorage%2Fs3",
            Address("b-1", "https://x.test/storage/s3", None, "us-east-1", "a", "b"),
        ),
    ],
)
def test_a_url_names_a_bucket(url: str, address: Address) -> None:
    assert read_address(url, "a", "b") == address


@pytest.mark.parametrize(
    "url",
    [
        "s3:",
        "s3://",
        "s3://b",
        "s3://Pictures",
        "s3://a_b_c",
        "s3://user@bucket",
        "s3://bucket/folder",
        "s3://bucket#x",
        "s3://bucket?endpiont=https://x",
        "s3://bucket?region=a&region=b",
        "s3://bucket?region=US East",
        "s3://bucket?region=",
        "s3://bucket?endpoint=",
        "s3://bucket?endpoint=minio:9000",
        "s3://bucket?endpoint=ftp://minio",
        "s3://bucket?endpoint=http://minio:port",
        "s3://bucket?endpoint=http://a:b@minio",
        "s3://bucket?public_endpoint=//cdn",
        "https://bucket",
    ],
)
def test_what_is_no_url_of_a_bucket_is_told_with_its_mend(url: str) -> None:
    with pytest.raises(NotConfigured, match=r"LIMNER_OBJECTS_URL.*s3://BUCKET"):
        s3_objects(url, "a", "b")


@pytest.mark.parametrize(("access_key", "secret_key"), [("a", ""), ("", "b")])
def test_half_a_pair_of_keys_is_refused(access_key: str, secret_key: str) -> None:
    with pytest.raises(NotConfigured, match="go together"):
        s3_objects("s3://bucket", access_key, secret_key)


def test_an_address_shows_no_keys() -> None:
    shown = repr(read_address("s3://bucket", "the-access", "the-secret"))
    assert "the-" not in shown


@pytest.mark.parametrize(
    ("url", "begins"),
    [
        ("s3://bucket?endpoint=http://minio:9000", "http://minio:9000/bucket/a/b.png?"),
        (
            "s3://bucket?endpoint=http://minio:9000&public_endpoint=https://files.test",
            "https://files.test/bucket/a/b.png?",
        ),
        ("s3://bucket?region=eu-north-1", "https://bucket.s3.eu-north-1.amazonaws.com/a/b.png?"),
        ("s3://bu.cket?region=eu-north-1", "https://s3.eu-north-1.amazonaws.com/bu.cket/a/b.png?"),
    ],
)
async def test_links_lead_to_the_public_endpoint(url: str, begins: str) -> None:
    store = s3_objects(url, "the-access", "the-secret")
    link = await store.presign("GET", "a/b.png", 60, filename="é.png")
    await store.aclose()
    assert link.startswith(begins)
    query = parse_qs(urlsplit(link).query)
    assert query["X-Amz-Expires"] == ["60"]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["response-content-disposition"] == [
        "inline; filename=\"_.png\"; filename*=UTF-8''%C3%A9.png"
    ]
    assert "the-secret" not in link


async def test_a_link_for_an_upload_signs_length_and_type() -> None:
    store = s3_objects("s3://bucket?endpoint=http://minio:9000", "a", "b")
    link = await store.presign("PUT", "up", 60, content_type="image/png", size_bytes=0)
    await store.aclose()
    query = parse_qs(urlsplit(link).query)
    assert query["X-Amz-SignedHeaders"] == ["content-length;content-type;host"]


@pytest.fixture
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")


@pytest.mark.usefixtures("_no_keys")
async def test_without_keys_those_of_the_machine_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    store = s3_objects("s3://bucket?endpoint=http://minio:9000", "", "")
    assert "of-the-machine" in await store.presign("GET", "a", 60)
    await store.aclose()


@pytest.mark.usefixtures("_no_keys")
async def test_no_keys_at_all_are_told_with_the_mend() -> None:
    store = s3_objects("s3://bucket?endpoint=http://127.0.0.1:1", "", "")
    for call in (store.presign("GET", "a", 60), store.check(), store.stat("a")):
        with pytest.raises(EngineUnavailable, match="LIMNER_OBJECTS_ACCESS_KEY"):
            await call
    await store.aclose()
