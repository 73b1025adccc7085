"""The report of measurements (TID 1500), and its gate."""
