"""Accounts: making one, and showing that an address is one's own."""

from limner.http.routes import Route

ROUTES: list[Route] = []
