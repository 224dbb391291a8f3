"""What a person shall know, until they have read it."""

from limner.http.routes import Route

ROUTES: list[Route] = []
