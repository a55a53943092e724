"""The admin key: there is one after every start, unless its operator holds it himself."""

import logging
from pathlib import Path

import pytest

from service import keys
from service.db import Database
from service.db.migrate import upgrade
from service.settings import Settings
from tests.conftest import KEY


@pytest.fixture
def database(tmp_path: Path) -> Database:
    opened = Database(f"sqlite:///{tmp_path / 'fovea.db'}")
    upgrade(opened)
    return opened


def revoke(database: Database, settings: Settings) -> None:
    with database.write() as session:
        row = keys.admin(session, settings)
        assert row
        keys.revoke(session, row.id)


def test_a_revoked_admin_key_is_followed_by_another(database: Database, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    assert keys.ensure_admin(database, settings)
    first = settings.admin_key_file.read_text()
    assert not keys.ensure_admin(database, settings)
    revoke(database, settings)
    assert keys.ensure_admin(database, settings)
    assert settings.admin_key_file.read_text() != first
    with database.read() as session:
        assert keys.find(session, first.strip()) is None
        assert keys.admin(session, settings)


def test_a_revoked_key_of_the_environment_opens_nothing_and_the_start_says_so(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(data=tmp_path, admin_key=KEY)
    assert keys.ensure_admin(database, settings)
    revoke(database, settings)
    with caplog.at_level(logging.WARNING):
        assert not keys.ensure_admin(database, settings)
    assert "FOVEA_ADMIN_KEY was revoked" in caplog.text
    with database.read() as session:
        assert keys.admin(session, settings) is None
    other = Settings(data=tmp_path, admin_key=KEY + "2")
    assert keys.ensure_admin(database, other)
