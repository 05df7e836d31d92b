"""A whole archive, file by file: the same function on every core, or on every machine of a Ray cluster."""
