"""Signing in by an account elsewhere."""

from limner.http.routes import Route

ROUTES: list[Route] = []
