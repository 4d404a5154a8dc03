"""What two or more of the question scripts share, one subject a file."""
