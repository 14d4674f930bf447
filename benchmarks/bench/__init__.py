"""What the load tester measures against what is true, and what it costs."""
