"""Generation: asking for a picture, and what became of it."""

from limner.http.routes import Route

ROUTES: list[Route] = []
