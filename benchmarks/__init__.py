"""What the service costs, measured: under load, beside its peers, part by part."""
