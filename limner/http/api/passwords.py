"""Passwords: forgotten, set anew, changed."""

from limner.http.routes import Route

ROUTES: list[Route] = []
