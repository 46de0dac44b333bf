"""`spatialt2i play`: a page that compares the base with the trained policy."""
