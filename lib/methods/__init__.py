"""What is learnt from feedback, a file a method."""
