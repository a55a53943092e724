"""The commands that the README tells people to type are run, as they stand."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np

from tests.conftest import KEY, Fovea, colours_zip, png

README = Path(__file__).parents[1] / "README.md"


def test_the_main_job_in_curl_lines_works_as_written(shared: Fovea, tmp_path: Path) -> None:
    script = re.search(r"<!-- test: main job -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert script is not None
    (tmp_path / "photos.zip").write_bytes(colours_zip())
    (tmp_path / "photo.png").write_bytes(png(np.full((16, 16, 3), (200, 30, 30), np.uint8)))
    done = subprocess.run(
        ["bash", "-euc", script[1]],
        cwd=tmp_path,
        env={**os.environ, "FOVEA_URL": shared.url, "KEY": KEY},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"label":"red"' in done.stdout
    assert '"confusion_matrix"' in done.stdout
