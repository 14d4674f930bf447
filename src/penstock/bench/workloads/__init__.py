"""What is sent, and when: arrivals, prompts of exact length, recorded loads."""
