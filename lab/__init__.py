"""Context-window lab: how a decoder's position encoding decides what happens beyond its context window."""

import os

# Ask torch's CPU allocator for transparent huge pages. Activations of tens of megabytes are allocated at every
# step, and with 4 KiB pages the kernel spends longer on page faults than the CPU on arithmetic. torch reads
# this at its first allocation, so it is set before anything imports torch; a value set by the user stands.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
