"""A picture that harms its decoder costs that picture only."""

import itertools
import os
import signal
from pathlib import Path

import numpy as np
import psutil

from service import images
from service.datasets import archive, duplicates, packing
from service.datasets.decoder import dhash
from service.datasets.zip_format import Entry
from service.settings import Settings
from tests import hostile


def setup(tmp_path: Path, files: dict[str, bytes], **knobs: float) -> tuple[Path, list[Entry], Settings]:
    settings = Settings(data=tmp_path, **knobs)  # type: ignore[arg-type]
    path = hostile.make_zip(tmp_path / "a.zip", files)
    return path, archive.inspect(path, settings), settings


def test_rows_hold_the_pixels_of_the_one_decoder(tmp_path: Path) -> None:
    files = hostile.classes(90) | {"a/broken.png": b"\x89PNG\r\n\x1a\n"}
    path, entries, settings = setup(tmp_path, files)
    target, seen = tmp_path / "cache" / "x.npy", list[int]()
    results = list(packing.pack(path, entries, target, 32, settings, lambda done, total: seen.append(done)))
    assert sorted(r.row for r in results) == list(range(181))
    assert [r.name for r in results if r.error] == ["a/broken.png"]
    assert seen[-1] == 181
    rows = np.load(target, mmap_mode="r", allow_pickle=False)
    for k, entry in enumerate(entries[:-1]):
        assert (rows[k] == images.decode(files[entry.name], 32, max_pixels=10**6).pixels).all()
    packing.keep_rows(target, [7, 3])
    assert (np.load(target, allow_pickle=False)[1] == rows[3]).all()
    assert [p.name for p in target.parent.iterdir()] == ["x.npy"]


def test_killed_decoders_cost_nothing_but_time(tmp_path: Path) -> None:
    path, entries, settings = setup(tmp_path, hostile.classes(600), decode_processes=2)
    results = packing.pack(path, entries, tmp_path / "x.npy", 32, settings)
    first = list(itertools.islice(results, 5))
    for child in psutil.Process().children():
        os.kill(child.pid, signal.SIGKILL)
    everything = first + list(results)
    assert sorted(r.row for r in everything) == list(range(1200))
    assert not [r for r in everything if r.error]


def test_a_picture_that_takes_too_long_is_rejected_alone(tmp_path: Path) -> None:
    slow = hostile.huge_png(7000)
    files = {"a/slow.png": slow} | hostile.classes(20)
    path, entries, settings = setup(tmp_path, files, decode_timeout_seconds=0.06, decode_processes=1)
    results = list(packing.pack(path, entries, tmp_path / "x.npy", 32, settings))
    assert [(r.name, (r.error or {})["code"]) for r in results if r.error] == [("a/slow.png", "decoder_timeout")]


def test_a_picture_that_needs_too_much_memory_is_rejected_alone(tmp_path: Path) -> None:
    files = {"a/wide.png": hostile.huge_png(7000)} | hostile.classes(20)
    path, entries, settings = setup(tmp_path, files, decode_memory_bytes=40 * 2**20)
    results = list(packing.pack(path, entries, tmp_path / "x.npy", 32, settings))
    assert [r.name for r in results if r.error] == ["a/wide.png"]


def test_a_stopped_import_leaves_no_file_and_no_child(tmp_path: Path) -> None:
    path, entries, settings = setup(tmp_path, hostile.classes(100))
    results = packing.pack(path, entries, tmp_path / "c" / "x.npy", 32, settings)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not list((tmp_path / "c").iterdir())
    assert not psutil.Process().children()


def test_the_size_is_the_usual_short_side(tmp_path: Path) -> None:
    path, entries, settings = setup(tmp_path, hostile.classes(4, side=61))
    assert packing.choose_size(path, entries, settings) == 64


def test_copies_are_found_and_different_digits_are_not(tmp_path: Path) -> None:
    zoo = np.random.default_rng(0).integers(0, 255, (400, 8, 8, 1), np.uint8).repeat(3, 3)
    pixels = zoo.repeat(4, 1).repeat(4, 2)
    pixels[1] = np.clip(pixels[0].astype(int) + 1, 0, 255)
    pixels[2] = pixels[3]
    names = [str(k) for k in range(400)]
    names[2] = names[3]
    groups = duplicates.find(names, names, [dhash(p) for p in pixels], pixels)
    assert [(g.kind, g.rows) for g in groups] == [("near", [0, 1]), ("exact", [2, 3])]
    assert len(duplicates.leaks(groups, ["train", "test"] + ["train"] * 398)) == 1
