"""The assignment as one plain notebook, and the code that builds submission, skeleton and course from it."""
