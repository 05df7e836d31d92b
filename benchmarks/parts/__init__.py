"""The parts of `make benchmark`: each is given a Bench, measures one thing and returns what goes into the results."""
