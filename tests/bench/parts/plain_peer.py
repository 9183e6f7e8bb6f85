"""What a careful user writes without this project: FastAPI, Pillow, ONNX Runtime, a plain handler. Run by uvicorn.

`MODEL` names the ONNX file, which takes ``uint8[N, SIDE, SIDE, 3]``; normalisation is in the graph, to its favour.
"""

import io
import os
from typing import Annotated

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, File, UploadFile
from PIL import Image

SIDE = int(os.environ["SIDE"])


def _session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


app = FastAPI()
session = _session()


@app.post("/predict")
def predict(file: Annotated[UploadFile, File()]) -> dict[str, float | int]:
    image = Image.open(io.BytesIO(file.file.read())).convert("RGB")
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    logits = session.run(None, {"images": pixels[np.newaxis]})[0][0]
    weights = np.exp(logits - logits.max())
    best = int(logits.argmax())
    return {"class": best, "confidence": float(weights[best] / weights.sum())}
