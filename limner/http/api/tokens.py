"""Access and refresh tokens, and the keys that verify them."""

from limner.http.routes import Route

ROUTES: list[Route] = []
