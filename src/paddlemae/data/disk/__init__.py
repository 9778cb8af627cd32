"""Reading from slow or unreliable disks: retries, reports of slow reads and of unreadable images."""
