"""The load tester: a plan made before the run, a load generator that only sends and times, and numbers that are
judged before they are shown."""
