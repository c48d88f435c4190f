"""Charts as inline SVG: told apart by marker and dash as well as by colour, legible at 360 px and in print."""
