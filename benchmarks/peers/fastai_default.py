"""fastai as in its vision tutorial: ImageDataLoaders, vision_learner, one cycle. Random weights, as ours.

    python fastai_default.py FOLDER SIDE SECONDS

FOLDER holds train/ and valid/. The first epoch of a learner that is thrown away tells how many epochs fit. The clock
runs from reading the folder on, imports excluded.
"""

import json
import sys
import time

from fastai.vision.all import (
    Callback,
    ImageDataLoaders,
    ProgressCallback,
    Resize,
    accuracy,
    resnet18,
    set_seed,
    vision_learner,
)

FOLDER, SIDE, SECONDS = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])


class Told(Callback):
    order = 60  # after the recorder

    def __init__(self, began: float) -> None:
        self.began = began

    def after_epoch(self) -> None:
        row = {"seconds": time.perf_counter() - self.began, "accuracy": float(self.recorder.values[-1][-1])}
        print(json.dumps(row), flush=True)


def learner(*callbacks: Callback) -> object:
    set_seed(0)
    pictures = ImageDataLoaders.from_folder(FOLDER, train="train", valid="valid", item_tfms=Resize(SIDE))
    found = vision_learner(pictures, resnet18, pretrained=False, metrics=accuracy, cbs=list(callbacks))
    found.remove_cb(ProgressCallback)
    found.logger = str  # its table would mix with our lines
    return found


def main() -> None:
    began = time.perf_counter()
    learner().fit_one_cycle(1)
    epochs = max(round(SECONDS / (time.perf_counter() - began)), 1)
    began = time.perf_counter()
    learner(Told(began)).fit_one_cycle(epochs)


if __name__ == "__main__":
    main()
