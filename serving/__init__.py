"""The service: decode, window, batch, infer and answer, over HTTP and gRPC."""
