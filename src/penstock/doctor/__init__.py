"""What stands in the way of a good service on this machine: facts in, findings out, each with how to mend it."""
