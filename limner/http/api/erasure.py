"""Erasing what is known of a mail address."""

from limner.http.routes import Route

ROUTES: list[Route] = []
