"""What all documents share; refusals and rejection notes, and their gate."""
