"""The worker process that runs the models, on both sides of its pipe.

The parent's: child, process. The worker's own: main, steps, residency, memory. Both: messages.
"""
