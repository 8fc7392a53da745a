"""RedPajama-Data-1T (https://huggingface.co/datasets/togethercomputer/RedPajama-Data-1T, arXiv 2411.12372).

Six subsets are left: arxiv, c4, common_crawl, github, stackexchange, wikipedia (book was withdrawn in 2023). The
files are plain HTTPS downloads named by a list of URLs; common_crawl is `.jsonl.zst` and has no `meta`, the others
are plain `.jsonl`, and of wikipedia and stackexchange there is one huge file each. All have a field `text`.
"""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urljoin

from huggingface_hub import HfApi

from lab.base.errors import UserError
from lab.data.sources.documents import SPLITS
from lab.data.sources.file_corpus import MEBIBYTE, Files, network_of
from lab.data.sources.file_list import FileList, Part, found, is_remote
from lab.data.sources.rows import decode
from lab.data.sources.storage import Network, open_file

SUBSETS = ("arxiv", "c4", "common_crawl", "github", "stackexchange", "wikipedia")
WITHDRAWN = "book"


class RedPajama(Files):
    """The files of a list of URLs (`urls`: a URL or a local file, one URL or path a line), as a `manifest` fixes them.

    A subset is the folder that a file lies in (common_crawl has folders of its own). Held out are, of the last file
    of each subset, the last hundredth (at most 64 MiB) for test and the hundredth before that for validation; where
    files cannot be cut (`.zst`), the last file and the one before. Raises UserError as `Files`, and if the manifest
    has not been made yet.
    """

    def __init__(self, urls: str, manifest: str, **reading: Any) -> None:
        super().__init__(manifest=manifest, **reading)

    @classmethod
    def find_files(cls, keys: dict[str, Any]) -> FileList:
        """The files as they are now, from the configuration of a corpus. Raises UserError as `found`."""
        network = network_of(keys)
        return held_out(found({"train": locations(keys["urls"], network)}, network)["train"])


class RedPajamaSample(Files):
    """RedPajama-Data-1T-Sample on the Hugging Face hub, without book: ten `.jsonl` files, as a `manifest` fixes them.

    Held out as in `RedPajama`. Raises UserError as `Files`, and if the manifest has not been made yet.
    """

    REPOSITORY = "togethercomputer/RedPajama-Data-1T-Sample"
    FILES: ClassVar = {
        "arxiv": ("arxiv",),
        "c4": ("c4",),
        "common_crawl": ("cc_2019-30", "cc_2020-05", "cc_2021-04", "cc_2022-05", "cc_2023-06"),
        "github": ("github",),
        "stackexchange": ("stackexchange",),
        "wikipedia": ("wikipedia",),
    }

    def __init__(self, revision: str, manifest: str, **reading: Any) -> None:
        super().__init__(manifest=manifest, **reading)

    @classmethod
    def find_files(cls, keys: dict[str, Any]) -> FileList:
        """The files of the commit that `revision` is now. Raises UserError as `found`, or if the hub is silent."""
        network = network_of(keys)
        try:
            commit = HfApi().dataset_info(cls.REPOSITORY, revision=keys["revision"]).sha
        except Exception as error:  # the library and its HTTP client raise of many kinds
            raise UserError(
                f"{cls.REPOSITORY} at {keys['revision']}: {type(error).__name__} from the hub; check the network"
            ) from None
        folder = f"hf://datasets/{cls.REPOSITORY}@{commit}"
        by_subset = {subset: [f"{folder}/{name}_sample.jsonl" for name in names] for subset, names in cls.FILES.items()}
        return held_out(found({"train": by_subset}, network)["train"])


def held_out(files: dict[str, list[Part]]) -> FileList:
    """The files of each subset divided into the three splits."""
    divided = {subset: divide(subset, parts) for subset, parts in files.items()}
    return {split: {subset: parts[split] for subset, parts in divided.items()} for split in SPLITS}


def locations(urls: str, network: Network) -> dict[str, list[str]]:
    """The locations in a list of URLs by subset, sorted. Raises UserError for one of no subset."""
    text = decode(b"".join(open_file(urls, network).read()), urls)
    by_subset: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        location = (
            line if is_remote(line) else urljoin(urls, line) if is_remote(urls) else str(Path(urls).parent / line)
        )
        folders = location.split("/")[:-1]
        # The last that is a subset's name: a local copy may lie in a folder of such a name.
        subset = next((name for name in reversed(folders) if name in (*SUBSETS, WITHDRAWN)), None)
        if subset == WITHDRAWN:
            continue
        if subset is None:
            raise UserError(f"{urls}: {line} lies in no folder of {', '.join(SUBSETS)}; remove the line")
        by_subset.setdefault(subset, []).append(location)
    if not by_subset:
        raise UserError(f"{urls}: the list is empty; give one URL a line")
    return {subset: sorted(by_subset[subset]) for subset in sorted(by_subset)}


def divide(subset: str, parts: list[Part]) -> dict[str, list[Part]]:
    """A subset's files in three splits, by the rule of `RedPajama`."""
    *first, last = parts
    if last.kind == "jsonl":
        size = min(64 * MEBIBYTE, last.size // 100)
        edges = (0, last.size - 2 * size, last.size - size, last.size)
        train, validation, test = (replace(last, start=start, stop=stop) for start, stop in itertools.pairwise(edges))
        return {"train": [*first, train], "validation": [validation], "test": [test]}
    if len(parts) < 3:
        raise UserError(f"subset {subset} has {len(parts)} files that cannot be cut; three or more are needed")
    return {"train": parts[:-2], "validation": [parts[-2]], "test": [parts[-1]]}
