"""`make demo`: real handwritten digits, a real network, one picture named."""

import io
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from service.cli.console import connect
from service.cli.jobs import watch
from service.client import Fovea, FoveaError
from service.settings import Settings

NAME = "digits"
SPEC = {"network": "classic", "epochs": 20, "batch_size": 64}
HELD_OUT = 42  # this picture is not uploaded
START_SECONDS = 60.0
out = Console(soft_wrap=True)


def demo(*, leave_running: bool) -> None:
    started = _start_unless_running()
    try:
        with connect() as fovea:
            _learn_once(fovea)
            _name_one(fovea)
            if leave_running or not started:
                out.print(f"\nSee it in a browser: {_page(fovea)}\nThe API's key: {Settings().admin_key_file}")
        if started and leave_running:
            out.print("It keeps running until you press Ctrl-C.")
            started.wait()
    except KeyboardInterrupt:
        pass
    finally:
        if started:
            started.send_signal(signal.SIGTERM)
            started.wait()


def _start_unless_running() -> subprocess.Popen[bytes] | None:
    if _answers():
        return None
    settings = Settings()
    settings.data.mkdir(parents=True, exist_ok=True)
    with (settings.data / "demo.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "up"], stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers():
            return process
        time.sleep(0.1)
    process.terminate()
    sys.exit(f"fovea demo: the service did not start; see {settings.data / 'demo.log'}")


def _answers() -> bool:
    try:
        with connect() as fovea:
            return bool(fovea.get("/readyz")["ready"])
    except FoveaError:
        return False


def _learn_once(fovea: Fovea) -> None:
    if any(row["name"] == NAME for row in fovea.rows("/v1/models")):
        out.print("The digits are learned already.")
        return
    if not any(row["name"] == NAME for row in fovea.rows("/v1/datasets")):
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "digits.zip"
            archive.write_bytes(zipped_digits())
            out.print(f"Uploading {archive.stat().st_size / 1024:.0f} KiB of handwritten digits")
            fovea.wait(fovea.push_dataset(archive, NAME)["job"]["id"])
    out.print("Training the textbook network: conv 32, 64, 128, dense 512")
    watch(fovea, fovea.train(NAME, NAME, SPEC)["id"])


def _name_one(fovea: Fovea) -> None:
    report = fovea.evaluation(NAME)
    accuracy = report["accuracy"]
    out.print(
        f"\nOn {report['n']} test pictures: accuracy {accuracy['value']:.4f} "
        f"(95 % between {accuracy['low']:.4f} and {accuracy['high']:.4f}), {len(report['mistakes'])} mistakes"
    )
    digits = _digits()
    picture = digits.images[HELD_OUT]
    answer = fovea.classify(NAME, _png(picture), top_k=1)
    result = answer["results"][0]
    out.print("\n".join("".join(" .:-=+*#%@"[int(value * 9 / 16)] * 2 for value in row) for row in picture))
    out.print(
        f"A picture it has never seen, of a {digits.target[HELD_OUT]}: "
        f"it says [bold]{result['label']}[/bold] with probability {result['probability']:.3f}"
    )


def _page(fovea: Fovea) -> str:
    """The page's address; it signs in by itself, once, where signing in is needed."""
    needed = fovea.get("/v1/session")["auth"] == "on"
    return fovea.url + (fovea.sign_in_path() if needed else "/")


def _digits() -> Any:
    from sklearn.datasets import load_digits

    return load_digits()


def zipped_digits() -> bytes:
    """scikit-learn's digits but the one held out, as a zip of one folder per class."""
    digits, buffer = _digits(), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (picture, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            if number != HELD_OUT:
                archive.writestr(f"{label}/{number:04}.png", _png(picture))
    return buffer.getvalue()


def _png(picture: NDArray[np.float64]) -> bytes:
    """(8, 8) values 0..16 -> a grey PNG file."""
    buffer = io.BytesIO()
    Image.fromarray((picture * (255 / 16)).astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()
