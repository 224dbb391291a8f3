"""The caller's own account."""

from limner.http.routes import Route

ROUTES: list[Route] = []
