"""Learning: corpora, splits, front ends, models, evaluation and export. Never imported by the service."""

import os

# Two runs with one seed are equal to the last bit, also where MKL shares a product among threads in other ways. It reads this
# when it first multiplies.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
