"""The report page: what run folders hold, collected and drawn as one HTML file."""
