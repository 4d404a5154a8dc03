"""The assignment as one plain notebook, and what makes of it the submission, the skeleton and the course."""
