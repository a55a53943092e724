"""No archive gets past the checks that could write, overlap, inflate or mislead."""

import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from service.datasets import archive
from service.errors import InvalidValue
from service.settings import Settings
from tests import hostile

PNG = hostile.picture()


def refusal(path: Path, **limits: int) -> str:
    with pytest.raises(InvalidValue) as caught:
        archive.inspect(path, Settings(**limits))  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value.code


def patched(path: Path, old: bytes, new: bytes) -> Path:
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_ordinary_archive_reads_back_byte_for_byte(tmp_path: Path, method: int) -> None:
    files = hostile.classes() | {"猫/é.png": PNG}
    path = hostile.make_zip(tmp_path / "a.zip", files, method)
    with path.open("rb") as file:
        assert {e.name: archive.read(file, e, 10**6) for e in archive.inspect(path, Settings())} == files


def test_what_is_no_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(PNG)
    assert refusal(path) == "archive_not_a_zip"
    hostile.make_zip(path, {})
    assert refusal(path) == "archive_empty"


def test_every_cut_of_an_archive_is_refused(tmp_path: Path) -> None:
    whole = hostile.make_zip(tmp_path / "a.zip", {"a/1.png": PNG, "b/2.png": PNG}).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "b.zip").write_bytes(whole[:length])
        assert refusal(tmp_path / "b.zip") in ("archive_truncated", "archive_not_a_zip")


def test_data_before_after_or_a_second_end_record_is_refused(tmp_path: Path) -> None:
    whole = hostile.make_zip(tmp_path / "a.zip", {"a/1.png": PNG}).read_bytes()
    for data in (PNG + whole, whole + b"x", whole + whole[-22:]):
        (tmp_path / "b.zip").write_bytes(data)
        assert refusal(tmp_path / "b.zip") == "archive_extra_data"


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    assert refusal(hostile.quoted_overlap(tmp_path / "a.zip")) in ("archive_overlap", "archive_inconsistent")


@pytest.mark.parametrize(
    "name",
    [
        *("../x.png", "/x.png", "a/../../x.png", "a\\b.png", "C:/x.png", "a//b.png", "a/\x07.png", "a/\u202egnp.x"),
        *("a/" + "x" * 256, "a/" * 16 + "x.png", "/".join(["y" * 200] * 6)),
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    assert refusal(hostile.make_zip(tmp_path / "a.zip", {name: PNG})) == "archive_name"


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    path = hostile.make_zip(tmp_path / "a.zip", {"a/okXphp.png": PNG})
    assert refusal(patched(path, b"okXphp", b"ok\0php")) == "archive_name"


def test_a_header_with_another_name_is_refused(tmp_path: Path) -> None:
    path = hostile.make_zip(tmp_path / "a.zip", {"a/1.png": PNG})
    path.write_bytes(path.read_bytes().replace(b"a/1.png", b"b/1.png", 1))
    assert refusal(path) == "archive_inconsistent"


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFREG | stat.S_ISUID])
def test_links_devices_and_setuid_files_are_refused(tmp_path: Path, mode: int) -> None:
    entry = zipfile.ZipInfo("a/1.png")
    entry.create_system, entry.external_attr = 3, (mode | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr(entry, PNG)
    assert refusal(tmp_path / "a.zip") == "archive_entry_type"


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    path = hostile.make_zip(tmp_path / "a.zip", {"a/1.png": PNG})
    assert refusal(patched(path, b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0")) == "archive_encrypted"


def test_bzip2_is_refused(tmp_path: Path) -> None:
    path = hostile.make_zip(tmp_path / "a.zip", {"a/1.png": bytes(10**6)}, zipfile.ZIP_BZIP2)
    assert refusal(path) == "archive_method"


@pytest.mark.parametrize("twins", [("a/x.png", "a/X.png"), ("a/\u00e9.png", "a/e\u0301.png")])
def test_twin_names_are_refused(tmp_path: Path, twins: tuple[str, str]) -> None:
    assert refusal(hostile.make_zip(tmp_path / "a.zip", dict.fromkeys(twins, PNG))) == "archive_duplicate"


def test_bombs_are_refused_unread(tmp_path: Path) -> None:
    path = hostile.make_zip(tmp_path / "a.zip", {"a/1.png": bytes(4 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert refusal(path) == "archive_bomb"
    path = hostile.make_zip(tmp_path / "b.zip", {"a/1.bmp": bytes(4 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert len(archive.inspect(path, Settings())) == 1  # a flat bitmap shrinks this well
    assert refusal(path, max_image_bytes=2**20) == refusal(path, max_unpacked_bytes=2**20) == "archive_bomb"


def test_too_many_entries_and_archives_in_archives_are_refused(tmp_path: Path) -> None:
    path = hostile.make_zip(tmp_path / "a.zip", hostile.classes())
    assert refusal(path, max_archive_entries=7) == "archive_too_many_entries"
    assert refusal(hostile.make_zip(tmp_path / "b.zip", {"a/b.zip": PNG})) == "archive_nested"


def test_more_than_65535_entries_are_read_through_zip64(tmp_path: Path) -> None:
    path = hostile.make_zip(tmp_path / "a.zip", {f"a/{i}.png": b"" for i in range(65_600)})
    assert len(archive.inspect(path, Settings())) == 65_600


def test_damaged_bytes_and_a_lying_size_are_found_when_read(tmp_path: Path) -> None:
    path = hostile.make_zip(tmp_path / "a.zip", {"a/1.png": PNG})
    (entry,) = archive.inspect(path, Settings())
    patched(path, PNG[-30:-20], bytes(10))
    with path.open("rb") as file, pytest.raises(InvalidValue, match="entry_corrupt"):
        archive.read(file, entry, 10**6)


def test_an_entry_of_few_bytes_and_a_long_deflate_stream_is_not_read(tmp_path: Path) -> None:
    path = hostile.make_zip(tmp_path / "a.zip", {"a/1.png": PNG})
    (entry,) = archive.inspect(path, Settings())
    long = replace(entry, method=zipfile.ZIP_DEFLATED, compressed_size=2 * len(PNG) + archive.SLACK_BYTES + 1)
    with path.open("rb") as file, pytest.raises(InvalidValue, match="far longer"):
        archive.read(file, long, 10**6)
