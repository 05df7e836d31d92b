"""FastAPI with our ONNX file and no batching: what one writes first.

The handler is a plain function, so that FastAPI runs it in its threads and ONNX Runtime, which lets go of the
interpreter's lock, uses all cores; one thread inside a pass, which is the fastest under load.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, UploadFile
from hearing import Hearing

hearing = Hearing()
app = FastAPI()


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, Any]:
    return hearing.answer(hearing.run(hearing.windows(file.file.read())))


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    return {"ready": True}
