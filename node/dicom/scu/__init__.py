"""What the node asks of its Peers: C-ECHO, C-STORE, C-FIND, Storage Commitment, STOW-RS."""
