"""The classic design, as most repositories for speech emotion have it: FastAPI, librosa's MFCC, a PyTorch CNN, one
request at a time.

An honest copy: the same network as our version 1 in shape and size, the model loaded once, no access log, uvicorn with
its fast parser and loop. Its weights are random, which costs what learned ones cost.
"""

from __future__ import annotations

import io

import librosa
import numpy as np
import torch
from fastapi import FastAPI, UploadFile
from torch import nn

LABELS = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
RATE_HZ, SECONDS = 16_000, 3


def block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2)
    )


network = nn.Sequential(
    block(1, 64),
    block(64, 128),
    block(128, 256),
    nn.AdaptiveAvgPool2d((4, 4)),
    nn.Flatten(),
    nn.Linear(256 * 16, 512),
    nn.ReLU(),
    nn.Dropout(0.3),
    nn.Linear(512, 256),
    nn.ReLU(),
    nn.Linear(256, len(LABELS)),
).eval()

app = FastAPI()


@app.post("/predict")
async def predict(file: UploadFile) -> dict[str, object]:
    samples, _ = librosa.load(io.BytesIO(await file.read()), sr=RATE_HZ, mono=True)
    window = librosa.util.fix_length(samples, size=RATE_HZ * SECONDS)
    mfcc = librosa.feature.mfcc(y=window, sr=RATE_HZ, n_mfcc=40, n_fft=1024, hop_length=512, n_mels=64)
    features = torch.from_numpy((mfcc - mfcc.mean()) / (mfcc.std() + 1e-8)).float()
    with torch.inference_mode():
        probabilities = network(features[None, None]).softmax(dim=1)[0].numpy()
    best = int(np.argmax(probabilities))
    return {
        "emotion": LABELS[best],
        "confidence": float(probabilities[best]),
        "all_emotions": {label: float(p) for label, p in zip(LABELS, probabilities, strict=True)},
    }


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    return {"ready": True}
