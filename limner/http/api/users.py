"""Accounts, as an administrator sees them."""

from limner.http.routes import Route

ROUTES: list[Route] = []
