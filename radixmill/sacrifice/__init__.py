"""Work that may kill its process: each piece in a fork of its own, with limits. Knows nothing of what the work is."""
