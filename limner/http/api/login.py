"""Signing in with a password, and a second factor where one is set up."""

from limner.http.routes import Route

ROUTES: list[Route] = []
