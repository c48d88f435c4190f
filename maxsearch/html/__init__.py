"""Pages that need nothing but themselves: pieces of HTML, the frame around them, figures in words."""
