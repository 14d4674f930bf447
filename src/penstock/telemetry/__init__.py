"""What is told to the outside: metrics and logs, made from records."""
