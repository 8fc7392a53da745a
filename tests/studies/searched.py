"""Which derived run of a run has the factors that LongRoPE's search found, for docs/rope-steps.sh.

python searched.py PARENT FACTOR LENGTH     that was searched for this factor at this length
python searched.py PARENT FACTOR            that was put together of searched ones
"""

import json
import sys
from pathlib import Path


def found(parent: Path, factor: float, length: int | None) -> Path:
    for path in sorted(parent.parent.glob(f"{parent.name}-longrope-*")):
        manifest = json.loads((path / "manifest.json").read_text())
        asked = manifest["asked"]["extension"]
        together = asked["search"] == "found"
        if asked["factor"] == factor and (
            together if length is None else manifest["found"].get("length_tokens") == length
        ):
            return path
    sys.exit(f"error: {parent} has no derived run with searched factors, s = {factor:g}, length {length}")


if __name__ == "__main__":
    print(found(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None))
