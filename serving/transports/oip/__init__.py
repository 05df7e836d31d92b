"""The Open Inference Protocol, version 2: one meaning (``model``, ``tensors``) under two wires (``http``, ``grpc``)."""
