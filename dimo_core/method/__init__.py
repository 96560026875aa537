"""The paper: its process, step, losses and networks."""
