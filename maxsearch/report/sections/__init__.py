"""The parts of the page, one file each: from checked inputs to HTML."""
