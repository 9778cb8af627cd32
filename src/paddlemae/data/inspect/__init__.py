"""One pass over all images of a source: survey, duplicates, channel statistics."""
