"""What people are told of the programs that are signed in for them."""

import pytest

from limner.http.auth.devices import device_of

WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) "
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) "
WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko) "


@pytest.mark.parametrize(
    ("agent", "device"),
    [
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
            "Firefox on Linux",
        ),
        (WINDOWS + WEBKIT + "Chrome/130.0 Safari/537.36", "Chrome on Windows"),
        (WINDOWS + WEBKIT + "Chrome/130.0 Safari/537.36 Edg/130.0", "Edge on Windows"),
        (MAC + "AppleWebKit/605.1.15 Version/18.0 Safari/605.1.15", "Safari on macOS"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1",
            "Safari on iPhone",
        ),
        (
            "Mozilla/5.0 (Linux; Android 14; Pixel 8) " + WEBKIT + "Chrome/130.0 Safari/537.36",
            "Chrome on Android",
        ),
        ("curl/8.5.0", "curl"),
        ("python-requests/2.32", "python-requests"),
        ("Mozilla/5.0", "an unknown program"),
        ("", "an unknown program"),
        ("<script>alert(1)</script>", "an unknown program"),
        ("x" * 255, "x" * 40),
    ],
)
def test_a_user_agent_becomes_words(agent: str, device: str) -> None:
    assert device_of(agent) == device
