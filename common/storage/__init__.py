"""Files that are written whole, and read back without trust."""
