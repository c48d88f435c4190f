"""What a training step needs on a machine that is not here: memory, FLOPs, collectives, a lower bound of its time."""
