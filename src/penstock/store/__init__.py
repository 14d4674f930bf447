"""What is kept on disk: keys and the run-time state of this machine."""
