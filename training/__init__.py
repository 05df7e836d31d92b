"""Learning: corpora, splits, front ends, models, evaluation and export. Never imported by the service."""

import os

# Two runs with one seed are equal to the last bit, also where MKL shares a product among threads in another way.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # read when it first multiplies
