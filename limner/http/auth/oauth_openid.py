"""Signing in by an OpenID provider: Google, Keycloak, or any other issuer.

OpenID Connect Core 1.0 section 3.1, with PKCE (RFC 7636) and the issuer in the answer (RFC 9207).
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

from yarl import URL

from limner.http.auth.oauth_calls import Told, ask_object, distrusted, faulty, shown
from limner.http.auth.oauth_discovery import Metadata, discovery_of
from limner.http.auth.oauth_id_token import Expected, claims_of, head_of
from limner.http.auth.oauth_providers import Asked, Person, clean_name
from limner.http.ports import Front
from limner.http.problems import BadRequest

SCOPE = "openid email profile"
OK = 200
BASIC = "client_secret_basic"
POST = "client_secret_post"
STALE_CODE = frozenset({"invalid_grant", "bad_verification_code", "incorrect_code"})


@dataclass(frozen=True)
class OpenIdProvider:
    """An issuer and our client there; a public client has no secret.

    ``settings`` is how the names of its settings begin, for who has to mend them.
    """

    name: str
    label: str
    issuer: str
    client_id: str
    client_secret: str
    settings: str

    async def authorization_url(self, front: Front, asked: Asked) -> str:
        """Give the authorization endpoint with the request (section 3.1.2.1)."""
        metadata = await self._metadata(front)
        return str(
            URL(metadata.authorization_url).extend_query(
                response_type="code",
                client_id=self.client_id,
                redirect_uri=asked.redirect_uri,
                scope=SCOPE,
                state=asked.state,
                nonce=asked.nonce,
                code_challenge=asked.challenge,
                code_challenge_method="S256",
            )
        )

    async def check_issuer(self, front: Front, told: str | None) -> None:
        """Compare; who announces that it always tells its issuer must tell it."""
        if told is None:
            if (await self._metadata(front)).tells_issuer:
                raise distrusted(self.label, "it does not say who it is")
        elif told != self.issuer:
            raise distrusted(self.label, "the answer is another provider's")

    async def person(self, front: Front, code: str, asked: Asked) -> Person:
        """Exchange the code, check the ID token, and ask for the address if it has none."""
        metadata = await self._metadata(front)
        tokens = await self._exchange(front, metadata, code, asked)
        token, access_token = tokens.text("id_token"), tokens.text("access_token")
        if not token or not access_token or tokens.text("token_type").lower() != "bearer":
            raise faulty(self.label, "it sent no tokens")
        head = head_of(self.label, token)
        key = await discovery_of(front).key(front, self.label, metadata, head.alg, head.kid)
        expected = Expected(
            self.issuer, self.client_id, asked.nonce, access_token, front.clock.now()
        )
        claims = claims_of(self.label, token, key, expected)
        if metadata.userinfo_url and not {"email", "email_verified"} <= claims.keys():
            claims = await self._with_info(front, metadata.userinfo_url, access_token, claims)
        return _person(self.issuer, claims)

    async def _metadata(self, front: Front) -> Metadata:
        return await discovery_of(front).metadata(front, self.label, self.issuer)

    async def _exchange(self, front: Front, metadata: Metadata, code: str, asked: Asked) -> Told:
        """Exchange the code (RFC 6749 section 4.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": asked.redirect_uri,
            "code_verifier": asked.verifier,
        }
        headers = {}
        # Without a word about it the server takes the password of HTTP (Discovery, section 3).
        methods = metadata.token_auth or (BASIC,)
        if not self.client_secret:
            form["client_id"] = self.client_id
        elif BASIC in methods:
            headers["Authorization"] = basic(self.client_id, self.client_secret)
        elif POST in methods:
            form |= {"client_id": self.client_id, "client_secret": self.client_secret}
        else:
            raise faulty(self.label, "it takes no client secret, as this service has one")
        told = await ask_object(
            front, self.label, "POST", metadata.token_url, headers=headers, form=form
        )
        if told.status != OK:
            raise refusal(self.label, told.text("error"), self.settings)
        return told

    async def _with_info(
        self, front: Front, url: str, access_token: str, claims: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Add what the userinfo endpoint tells of the same subject (section 5.3.2)."""
        told = await ask_object(
            front, self.label, "GET", url, headers={"Authorization": f"Bearer {access_token}"}
        )
        if told.status != OK:
            raise faulty(self.label, f"it tells no address, but {told.status}")
        if told.content.get("sub") != claims["sub"]:
            raise distrusted(self.label, "it told of somebody else")
        # Address and its being verified belong together: both from one place.
        names = ("email", "email_verified", "name")
        info = {name: told.content[name] for name in names if name in told.content}
        rest = {name: claims[name] for name in claims if name not in {"email", "email_verified"}}
        return {**rest, **info}


def basic(client_id: str, client_secret: str) -> str:
    """Give the header of a client's password, both parts form-encoded (RFC 6749 section 2.3.1)."""
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def refusal(label: str, error: str, settings: str) -> Exception:
    """Give the error for what a token endpoint refused."""
    if error in STALE_CODE:
        return BadRequest(
            f"{label} does not take this sign-in: it was used, is too old or was not begun in "
            "this browser. Begin again",
            code="oauth_code",
        )
    said = shown(error) or "no reason"
    return faulty(
        label, f"it refuses this service ({said}); see {settings}_CLIENT_ID and _CLIENT_SECRET"
    )


def _person(issuer: str, claims: Mapping[str, Any]) -> Person:
    """Give who the claims are about; some providers write ``email_verified`` as a word."""
    email, verified = claims.get("email"), claims.get("email_verified")
    return Person(
        issuer=issuer,
        subject=claims["sub"],
        email=email if isinstance(email, str) else "",
        is_verified=verified is True or verified == "true",
        name=clean_name(claims.get("name")),
    )
