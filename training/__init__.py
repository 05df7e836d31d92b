"""Learning: corpora, splits, front ends, models, evaluation and export. Never imported by the service."""
