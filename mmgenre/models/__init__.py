"""The systems. Flat, since a file here travels with a checkpoint: it imports only siblings."""
