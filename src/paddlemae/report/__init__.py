"""What a run leaves behind, and the pictures made of it."""
