"""BentoML around ONNX Runtime: FOVEA_PEER="MODEL.onnx SIZE" bentoml serve bentoml_onnx:Classify --port PORT."""

import os

import bentoml
import numpy as np
import onnxruntime
from PIL import Image
from PIL.Image import Image as Picture

PATH, SIZE = os.environ["FOVEA_PEER"].split()


@bentoml.service(workers=1, traffic={"max_concurrency": 64})
class Classify:
    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(PATH, providers=["CPUExecutionProvider"])

    @bentoml.api(route="/predict")
    def classify(self, image: Picture, /) -> list[dict]:
        picture = image.convert("RGB").resize((int(SIZE), int(SIZE)), Image.Resampling.BILINEAR)
        logits = self.session.run(["logits"], {"images": np.asarray(picture).transpose(2, 0, 1)[None]})[0][0]
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        return [{"label": int(k), "probability": float(chances[k])} for k in np.argsort(-chances)[:5]]
