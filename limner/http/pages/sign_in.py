"""The pages where people sign in, make an account and set passwords anew."""

from limner.http.routes import Route

ROUTES: list[Route] = []
