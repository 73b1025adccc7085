"""What runs beside what: one lane for each kind of work, each a thread."""
