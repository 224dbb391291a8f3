"""The descriptions of the interfaces."""

import json

import click

from limner.cli.root import cli, command


@cli.command()
@command
def openapi() -> None:
    """Print the OpenAPI document of the REST interface."""
    from limner import app
    from limner.http.openapi import document
    from limner.http.table import ROUTES

    click.echo(json.dumps(document(ROUTES, app.version()), indent=2, ensure_ascii=False))


@cli.command()
@command
def asyncapi() -> None:
    """Print the AsyncAPI document of commands and events."""
    from limner import app
    from limner.actors import registry
    from limner.http.asyncapi import document

    described = document(registry.messages(), app.version())
    click.echo(json.dumps(described, indent=2, ensure_ascii=False))
