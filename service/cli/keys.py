"""`fovea keys`: make, list and revoke API keys."""

import sys
from typing import Annotated

import typer

from service.cli.console import AsJson, connect, show

keys = typer.Typer(no_args_is_help=True, help="API keys.")


@keys.command("create")
def create_key(scope: Annotated[list[str], typer.Option()], name: str = "key", as_json: AsJson = False) -> None:
    """Make a key; it is shown once."""
    with connect() as fovea:
        made = fovea.create_key(name, scope)
    show(made, as_json=True) if as_json else sys.stdout.write(made["key"] + "\n")


@keys.command("ls")
def list_keys(as_json: AsJson = False) -> None:
    with connect() as fovea:
        show(list(fovea.rows("/v1/keys")), as_json, ("id", "name", "prefix", "scopes", "revoked_at"))


@keys.command("revoke")
def revoke_key(key_id: str) -> None:
    with connect() as fovea:
        fovea.delete(f"/v1/keys/{key_id}")
