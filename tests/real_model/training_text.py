"""The messages of sotu's training split as one file, for what reads other text of a model that no corpus belongs to.

python tests/real_model/training_text.py FILE
"""

import sys
from pathlib import Path

from lab.base.files import write_whole
from lab.data.sources.documents import Sotu

if __name__ == "__main__":
    corpus = Sotu()
    entries = (entry for subset in corpus.subsets("train") for entry in corpus.documents("train", subset))
    write_whole(Path(sys.argv[1]), "\n\n".join(entry.text for entry in entries if entry.text).encode())
