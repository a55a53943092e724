"""Keras on TensorFlow as in TensorFlow's image classification tutorial: its network, cache, augmentation, Adam.

    python keras_default.py FOLDER SIDE SECONDS

FOLDER holds train/ and valid/. Epochs go on until SECONDS are over; the clock runs from reading the folder on.
"""

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf
from keras import Sequential, callbacks, layers, losses, utils

FOLDER, SIDE, SECONDS = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
MOST_EPOCHS = 1000


class Told(callbacks.Callback):
    def __init__(self, began: float) -> None:
        super().__init__()
        self.began = began

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        seconds = time.perf_counter() - self.began
        print(json.dumps({"seconds": seconds, "accuracy": float(logs["val_accuracy"])}), flush=True)
        if seconds >= SECONDS:
            self.model.stop_training = True


def main() -> None:
    began = time.perf_counter()
    utils.set_random_seed(0)
    read = {"image_size": (SIDE, SIDE), "batch_size": 32, "verbose": False}
    train = utils.image_dataset_from_directory(f"{FOLDER}/train", seed=0, **read)
    valid = utils.image_dataset_from_directory(f"{FOLDER}/valid", shuffle=False, **read)
    classes = len(train.class_names)
    train, valid = train.cache().shuffle(1000).prefetch(tf.data.AUTOTUNE), valid.cache().prefetch(tf.data.AUTOTUNE)
    convolutions = [
        layer
        for filters in (16, 32, 64)
        for layer in (layers.Conv2D(filters, 3, padding="same", activation="relu"), layers.MaxPooling2D())
    ]
    changes = [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1)]
    end = [layers.Dropout(0.2), layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(classes)]
    network = Sequential([layers.Input((SIDE, SIDE, 3)), *changes, layers.Rescaling(1 / 255), *convolutions, *end])
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    network.fit(train, validation_data=valid, epochs=MOST_EPOCHS, callbacks=[Told(began)], verbose=0)


if __name__ == "__main__":
    main()
