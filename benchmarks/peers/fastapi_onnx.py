"""A hand-written FastAPI service around ONNX Runtime: python fastapi_onnx.py MODEL.onnx SIZE PORT."""

import io
import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

path, size, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
app = FastAPI()


def answer(body: bytes) -> list[dict]:
    picture = Image.open(io.BytesIO(body)).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    logits = session.run(["logits"], {"images": np.asarray(picture).transpose(2, 0, 1)[None]})[0][0]
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    return [{"label": int(k), "probability": float(chances[k])} for k in np.argsort(-chances)[:5]]


@app.post("/predict")
async def classify(request: Request) -> list[dict]:
    body = await request.body()
    if size > 64:
        from starlette.concurrency import run_in_threadpool

        return await run_in_threadpool(answer, body)
    return answer(body)


uvicorn.run(app, port=port, http="httptools", loop="uvloop", log_level="warning", access_log=False)
