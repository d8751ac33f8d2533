"""What a token adds to an objective, one formula a file, and what they share. Knows no algorithm by name."""
