"""Signing in by GitHub, which is OAuth but no OpenID provider: its API says who signed in.

https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps and the
endpoints ``/user`` and ``/user/emails`` of its REST API.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from yarl import URL

from limner.core.errors import Refused
from limner.http.auth.oauth_calls import ask, ask_object, distrusted, faulty, trusted_url
from limner.http.auth.oauth_openid import refusal
from limner.http.auth.oauth_providers import Asked, Person, clean_name
from limner.http.ports import Front

PUBLIC = "https://github.com"
PUBLIC_API = "https://api.github.com"
SCOPE = "read:user user:email"
ACCEPT = "application/vnd.github+json"
API_VERSION = "2022-11-28"
OK = 200


@dataclass(frozen=True)
class GitHubProvider:
    """github.com or an Enterprise Server at ``url``, and our OAuth app there."""

    url: str
    client_id: str
    client_secret: str
    name: str = "github"
    label: str = "GitHub"
    settings: str = "LIMNER_OAUTH__GITHUB"

    @property
    def api(self) -> str:
        """Give where its REST API is."""
        return PUBLIC_API if self.url == PUBLIC else f"{self.url}/api/v3"

    async def authorization_url(self, front: Front, asked: Asked) -> str:
        """Give its page with the request."""
        try:
            page = trusted_url(f"{self.url}/login/oauth/authorize")
        except Refused as error:
            raise faulty(self.label, f"{self.settings}_URL is {error.detail}") from None
        return str(
            URL(page).extend_query(
                client_id=self.client_id,
                redirect_uri=asked.redirect_uri,
                scope=SCOPE,
                state=asked.state,
                code_challenge=asked.challenge,
                code_challenge_method="S256",
            )
        )

    async def check_issuer(self, front: Front, told: str | None) -> None:
        """Compare, if it tells: by its address, or by that of its OAuth pages."""
        if told not in {None, self.url, f"{self.url}/login/oauth"}:
            raise distrusted(self.label, "the answer is another provider's")

    async def person(self, front: Front, code: str, asked: Asked) -> Person:
        """Exchange the code, then ask for the account and its primary address."""
        tokens = await ask_object(
            front,
            self.label,
            "POST",
            f"{self.url}/login/oauth/access_token",
            form={
                "client_id": self.client_id,
                "client_secret": self.client_secret,
                "code": code,
                "redirect_uri": asked.redirect_uri,
                "code_verifier": asked.verifier,
            },
        )
        token = tokens.text("access_token")
        # It tells of errors with status 200.
        if tokens.status != OK or not token:
            raise refusal(self.label, tokens.text("error"), self.settings)
        account = await self._get(front, "/user", token)
        ident = account.get("id") if isinstance(account, dict) else None
        if not isinstance(ident, int) or isinstance(ident, bool):
            raise faulty(self.label, "it does not say whose account it is")
        emails = await self._get(front, "/user/emails", token)
        email = _primary(emails if isinstance(emails, list) else ())
        return Person(
            issuer=self.url,
            subject=str(ident),
            email=email,
            is_verified=bool(email),
            name=clean_name(account.get("name")) or clean_name(account.get("login")),
        )

    async def _get(self, front: Front, path: str, token: str) -> Any:
        headers = {
            "Accept": ACCEPT,
            "Authorization": f"Bearer {token}",
            "X-GitHub-Api-Version": API_VERSION,
        }
        status, content = await ask(front, self.label, "GET", self.api + path, headers=headers)
        if status != OK:
            raise faulty(self.label, f"{path} answers {status}")
        return content


def _primary(emails: Iterable[Any]) -> str:
    """Give the primary address if it is verified, or nothing."""
    for each in emails:
        if isinstance(each, dict) and each.get("primary") is True and each.get("verified") is True:
            email = each.get("email")
            return email if isinstance(email, str) else ""
    return ""
