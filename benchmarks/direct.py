"""The training function called directly, without service, job or database: prints its seconds."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from service.auto import DatasetFacts, resolve
from service.inference.torch_program import load
from service.spec import TrainSpec
from workers import train_job
from workers.training import evaluate, export
from workers.training.data import Split
from workers.training.loop import Run, train
from workers.training.state import prepare, start


def main() -> None:
    cache, items, wanted, measured = sys.argv[1:]
    plan = json.loads(measured)
    labels, splits = (np.array(column) for column in zip(*json.loads(Path(items).read_text()), strict=True))
    names = sorted(set(labels))
    numbers = np.array([names.index(label) for label in labels])
    threads = psutil.cpu_count(logical=False) or 1
    prepare("cpu", threads)
    packed = np.load(cache, mmap_mode="r")
    rows = {name: np.flatnonzero(splits == name) for name in ("train", "val", "test")}
    facts = DatasetFacts(len(rows["train"]), len(names), packed.shape[1], grey=False)
    spec = resolve(TrainSpec.model_validate(json.loads(wanted)), facts)
    train_job.warm_up()  # so that nothing is imported while the clock runs

    started = time.perf_counter()
    state = start(spec, len(names), 0, "cpu", plan)
    run = Run(*(Split.of(packed, rows[name], numbers[rows[name]], "cpu") for name in ("train", "val")), spec, plan, 0)
    for _ in train(state, run):
        pass
    program = load(export.export_program(export.Classifier(state.network.eval()), packed.shape[1]), "cpu", threads)
    logits = evaluate.logits_of(program, packed, rows["test"])
    evaluate.report("test", logits, numbers[rows["test"]], names, 1.0, [""] * len(logits))
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
