"""What touches the world: one class for each collaborator, injected in worker.py. Activities decide nothing."""
