"""The Storage and Verification SCP, in a process of its own (docs/decisions/0007).

supervisor    the node's side: starts the process, hears it, starts it again
process       the process: builds what follows and serves until the node is gone
server        connections, each with its Association
admission     who gets an Association, and who is too many
association   one Association: its place among the others, and how it ended
upper_layer   pynetdicom's DUL, without its polling and its small reads
messages      P-DATA to requests; what is neither storage nor its commitment goes to pynetdicom
storage       one C-STORE
commitment    one N-ACTION or N-EVENT-REPORT of Storage Commitment
secure        connections by TLS
arrival       one Instance on its way to disk
data_set      whether the bytes are a whole data set, and whose
aside         copies of what was refused as unreadable
spool         names in incoming/, and how Associations ended
"""
