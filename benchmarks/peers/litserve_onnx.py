"""LitServe around ONNX Runtime: python litserve_onnx.py MODEL.onnx SIZE PORT."""

import io
import sys

import litserve
import numpy as np
import onnxruntime
from fastapi import Request
from PIL import Image

PATH, SIZE, PORT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Classify(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.session = onnxruntime.InferenceSession(PATH, providers=["CPUExecutionProvider"])

    def decode_request(self, request: Request) -> np.ndarray:
        picture = Image.open(io.BytesIO(request["content"].file.read()))  # it takes forms and JSON only
        return np.asarray(picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.session.run(["logits"], {"images": images})[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> list[dict]:
        chances = np.exp(output - output.max())
        chances /= chances.sum()
        return [{"label": int(k), "probability": float(chances[k])} for k in np.argsort(-chances)[:5]]


if __name__ == "__main__":
    api = Classify(max_batch_size=16, batch_timeout=0.002, api_path="/predict")
    litserve.LitServer(api, accelerator="cpu").run(port=PORT, generate_client_file=False, log_level="warning")
