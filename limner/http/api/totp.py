"""The second factor: an authenticator's codes, and recovery codes."""

from limner.http.routes import Route

ROUTES: list[Route] = []
