"""From documents to blocks: what a corpus is, how it becomes tokens, and in which order a run reads them."""
