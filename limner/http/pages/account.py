"""The pages of one's own account: profile, sessions, keys, notifications."""

from limner.http.routes import Route

ROUTES: list[Route] = []
