"""The systems. Flat on purpose: a file here travels with a checkpoint, so it imports only siblings."""
