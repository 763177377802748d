"""What leaves a notebook, and what runs notebooks."""
