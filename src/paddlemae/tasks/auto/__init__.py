"""From images to a result and a report within a given time: `paddlemae auto`."""
