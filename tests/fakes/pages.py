"""What a test reads out of a page of the front."""


def csrf_token(page: str) -> str:
    """Give the token that a page carries for its forms, or nothing."""
    return page.partition('name="csrf-token" content="')[2].partition('"')[0]
