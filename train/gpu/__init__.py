"""Training the shipped model on a GPU that is lent for minutes: packing, the run, measuring."""
