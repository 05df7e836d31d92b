"""One file per protocol; each only translates between its wire and ``serving.pipeline``. None imports another."""
