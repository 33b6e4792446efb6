"""Speed against the alternatives: every ratio comes from one run in which its variants take turns."""
