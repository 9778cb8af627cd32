"""What a user does: one file a task, each builds parts and hands them to `train`."""
