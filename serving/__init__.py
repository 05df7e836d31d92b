"""The service: decode a clip, cut it into windows, infer and answer."""

import os

__version__ = "0.1.0"

# Who runs a service that hears voices has told nobody to report on it. Both libraries do unless told not to before they
# are loaded: ONNX Runtime from 1.29 on uploads events and keeps a device number on disk, BentoML reports each start.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
