import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors import safe_open

from lab.base.errors import UserError
from lab.data.stream import writing
from lab.data.stream.blocks import StoredBlocks
from lab.data.stream.fingerprint import Fingerprint
from lab.data.stream.order import BlockStream
from lab.data.stream.shards import read_shard, shard_path
from lab.data.stream.writing import unwritten, write_blocks
from lab.data.tokenizer import Tokenizer

IDENTITY = {"corpus": "mixture", "seed": 3}
COUNT = 130  # blocks: 33 or 32 of each of four lanes, in shards of five


@pytest.fixture(autouse=True)
def short_shards(monkeypatch):
    monkeypatch.setattr(writing, "SHARD_TOKENS", 5 * 32)


@pytest.fixture(scope="module")
def mixture(texts):
    """Two subsets of documents of a few tokens, every eleventh of which is empty."""
    source = random.Random(4)

    def document():
        return "" if source.random() < 1 / 11 else f"{source.random():.3f} " * source.randrange(1, 9)

    def chunks(count):
        return [[document() for _ in range(12)] for _ in range(count)]

    return texts({"notes": chunks(5), "web": chunks(9)})


@pytest.fixture
def stream(mixture, tokenizer):
    """Make the stream that is written down."""

    def make(**keys):
        keys = {"context": 31, "seed": 3, "lanes": 4, "weights": {"web": 0.7, "notes": 0.3}, "tile": 5, **keys}
        return BlockStream(mixture, "train", tokenizer, **keys)

    return make


def write(stream, folder, count=COUNT, processes=1, identity=IDENTITY):
    """Write blocks; returns the tokens that each call of `progress` was told."""
    told = []
    write_blocks(stream, folder, identity, count, processes, told.append)
    return told


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(stream, tmp_path):
    write(stream(), tmp_path / "blocks")
    return tmp_path / "blocks"


def test_stored_blocks_are_those_of_the_stream(stream, folder):
    fresh, stored = stream(), StoredBlocks(folder, IDENTITY, COUNT)
    assert stored.lanes == 4
    sums = Fingerprint(), Fingerprint()
    skipped = 0
    for g in range(COUNT):
        expected, block = fresh.block(g), stored.block(g)
        np.testing.assert_array_equal(block.tokens, expected.tokens, strict=True)
        np.testing.assert_array_equal(block.starts, expected.starts, strict=True)
        assert block.skipped == expected.skipped
        assert block.cursor is None
        skipped += len(block.skipped)
        for total, one in zip(sums, (expected, block), strict=True):
            total.add(g, one.tokens)
    assert sums[0].hex == sums[1].hex
    assert skipped > 10


def test_stored_blocks_can_be_read_in_any_order(stream, folder):
    fresh, stored = stream(), StoredBlocks(folder, IDENTITY, COUNT)
    numbers = list(range(COUNT))
    random.Random(0).shuffle(numbers)
    expected = [fresh.block(g).tokens for g in range(COUNT)]
    for g in numbers:
        np.testing.assert_array_equal(stored.block(g).tokens, expected[g])
    pairs = stored.blocks(3, 40)
    assert [next(pairs)[0] for _ in range(3)] == [3, 43, 83]


def test_each_shard_says_how_many_blocks_it_holds_and_their_fingerprint(stream, folder):
    fresh = stream()
    names = sorted(path.name for path in (folder / "lane=0001").iterdir())
    assert names == [f"item={start:08d}.safetensors" for start in range(0, 33, 5)]
    for lane, items in ((0, 33), (1, 33), (2, 32), (3, 32)):
        for start in range(0, items, 5):
            with safe_open(shard_path(folder, lane, start), framework="np") as file:
                assert file.get_tensor("tokens").dtype == np.uint16
                header = json.loads(file.metadata()["record"])
            total = Fingerprint()
            for item in range(start, min(start + 5, items)):
                total.add(item * 4 + lane, fresh.block(item * 4 + lane).tokens)
            assert header["blocks"] == min(start + 5, items) - start
            assert header["fingerprint"] == total.hex


@pytest.mark.parametrize("processes", [2, 5])
def test_any_number_of_processes_writes_the_same_bytes(stream, folder, tmp_path, processes):
    told = write(stream(), tmp_path / "other", processes=processes)
    assert sum(told) == COUNT * 32
    assert contents(tmp_path / "other") == contents(folder)


def test_no_more_processes_are_started_than_there_are_lanes_to_write(stream, folder, tmp_path):
    alive = []
    write_blocks(
        *(stream(), tmp_path / "other", IDENTITY, COUNT, 40),
        lambda tokens: alive.append(len(multiprocessing.active_children())),
    )
    assert 0 < max(alive) <= 4
    assert contents(tmp_path / "other") == contents(folder)


def test_blocks_that_are_there_are_not_written_again(stream, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("item=*")}
    told = write(stream(), folder)
    assert sum(told) == COUNT * 32
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("item=*")} == before


@pytest.mark.parametrize("first", [1, 3, 18, 60])
def test_more_blocks_of_the_same_stream_can_be_added_later(stream, folder, tmp_path, first):
    write(stream(), tmp_path / "other", count=first)
    StoredBlocks(tmp_path / "other", IDENTITY, first)
    with pytest.raises(UserError, match=r"needed: run python -m lab\.prepare blocks again"):
        StoredBlocks(tmp_path / "other", IDENTITY, COUNT)
    write(stream(), tmp_path / "other")
    assert contents(tmp_path / "other") == contents(folder)


def test_fewer_blocks_can_be_read_than_were_written(stream, folder):
    write(stream(), folder, count=7)
    stored = StoredBlocks(folder, IDENTITY, 7)
    np.testing.assert_array_equal(stored.block(129).tokens, stream().block(129).tokens)


KILLED = """
import sys
from pathlib import Path
from lab.base.interruption import Interrupted
from lab.data.stream import writing
from lab.data.sources.documents import Sotu
from lab.data.stream.order import BlockStream
from lab.data.tokenizer import Tokenizer

writing.SHARD_TOKENS = 12_800
stream = BlockStream(Sotu(), "train", Tokenizer("sotu_1k/tokenizer.json"), context=255, seed=0, lanes=4)
if __name__ == "__main__":
    folder, processes = sys.argv[1:]
    try:
        writing.write_blocks(stream, Path(folder), {}, 1_000, int(processes), lambda tokens: None)
    except Interrupted as stopped:
        print(stopped)
        sys.exit(75)
"""


def shards(folder):
    return len(list(folder.rglob("item=*.safetensors")))


def gone(group):
    """Whether no process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_writing_that_was_killed_goes_on_and_gives_the_same_bytes(tmp_path):
    script = tmp_path / "write.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script)]
    subprocess.run([*command, str(tmp_path / "whole"), "1"], check=True)
    assert shards(tmp_path / "whole") == 20
    for stop in (2, 11):
        process = subprocess.Popen([*command, str(tmp_path / "killed"), "2"], start_new_session=True)
        while shards(tmp_path / "killed") < stop:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 20
        while not gone(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not gone(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("the processes of a command that was killed go on without it")
        assert shards(tmp_path / "killed") < 20
    subprocess.run([*command, str(tmp_path / "killed"), "2"], check=True)
    whole, killed = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert {name: content for name, content in killed.items() if not name.endswith(".new")} == whole


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_writing_that_a_signal_stops_finishes_the_shards_in_hand_and_says_what_is_missing(tmp_path, number):
    script = tmp_path / "write.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(tmp_path / "blocks"), "2"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
    while shards(tmp_path / "blocks") < 2:
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, number)  # as a terminal and SLURM do
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 75
    written = shards(tmp_path / "blocks")
    assert 2 <= written < 20
    assert told == (
        f"{signal.Signals(number).name} came: {1000 - 50 * written} of 1,000 blocks are not yet written; "
        "the same command continues it\n"
    )
    assert not list(tmp_path.rglob("*.new"))
    assert gone(process.pid)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_parts_that_are_written_apart_make_the_same_folder_together(stream, folder, tmp_path, order):
    apart = tmp_path / "apart"
    for number, left in zip(order, (True, True, False), strict=True):
        write_blocks(stream(), apart, IDENTITY, COUNT, 1, lambda tokens: None, number, 3)
        assert bool(unwritten(apart, COUNT, 4)) is left
    assert contents(apart) == contents(folder)


def test_parts_share_the_lanes_and_each_writes_its_own_only(stream, tmp_path):
    told = []
    write_blocks(stream(), tmp_path / "apart", IDENTITY, COUNT, 1, told.append, 1, 4)
    assert [path.name for path in sorted((tmp_path / "apart").glob("lane=*"))] == ["lane=0001"]
    assert sum(told) == 33 * 32
    assert unwritten(tmp_path / "apart", COUNT, 4) == COUNT - 33


def test_parts_that_begin_at_the_same_moment_agree_about_what_the_folder_holds(tmp_path):
    script = tmp_path / "write.py"
    script.write_text(
        KILLED.replace("int(processes), lambda tokens: None", "1, lambda tokens: None, int(processes), 4")
    )
    together = [
        subprocess.Popen([sys.executable, str(script), str(tmp_path / "apart"), str(part)]) for part in range(4)
    ]
    assert [each.wait(120) for each in together] == [0, 0, 0, 0]
    script.write_text(KILLED)
    subprocess.run([sys.executable, str(script), str(tmp_path / "whole"), "1"], check=True)
    assert contents(tmp_path / "apart") == contents(tmp_path / "whole")


def test_more_parts_than_lanes_are_refused(stream, tmp_path):
    with pytest.raises(UserError, match=r"5 parts of 4 lanes: .* ask for at most 4 parts"):
        write_blocks(stream(), tmp_path / "apart", IDENTITY, COUNT, 1, lambda tokens: None, 0, 5)
    assert not (tmp_path / "apart").exists()


def test_a_changed_byte_anywhere_in_a_shard_is_told_with_its_name(folder):
    path = shard_path(folder, 2, 5)
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(bytes(changed))
        with pytest.raises(UserError, match=r"lane=0002/item=00000005\.safetensors: damaged") as error:
            read_shard(path, 2, 5, 4)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("item", [0, 10, 25])
def test_a_damaged_shard_stops_reading_and_is_named_and_written_again(stream, folder, item, caplog):
    path = shard_path(folder, 1, item)
    whole = path.read_bytes()
    content = bytearray(whole)
    content[-100] ^= 1
    path.write_bytes(bytes(content))
    stored = StoredBlocks(folder, IDENTITY, COUNT)
    with pytest.raises(UserError, match=rf"lane=0001/item={item:08d}\.safetensors: damaged .*; delete it"):
        stored.block((item + 2) * 4 + 1)
    write(stream(), folder)
    assert path.read_bytes() == whole
    assert f"item={item:08d}.safetensors: damaged" in caplog.text


@pytest.mark.parametrize("kept", [0, 7, 300])
def test_a_shard_that_was_cut_off_is_told_with_its_name(stream, folder, kept):
    path = shard_path(folder, 0, 30)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"lane=0000/item=00000030\.safetensors: damaged"):
        StoredBlocks(folder, IDENTITY, COUNT)
    write(stream(), folder)
    StoredBlocks(folder, IDENTITY, COUNT)


def test_a_shard_in_the_place_of_another_is_refused(folder):
    shard_path(folder, 1, 5).write_bytes(shard_path(folder, 1, 10).read_bytes())
    with pytest.raises(UserError, match=r"lane=0001/item=00000005\.safetensors: damaged"):
        StoredBlocks(folder, IDENTITY, COUNT).block(5 * 4 + 1)


def test_a_missing_shard_is_told_with_its_name_and_can_be_written_again(stream, folder):
    before = contents(folder)
    shard_path(folder, 3, 10).unlink()
    with pytest.raises(UserError, match=r"lane=0003/item=00000010\.safetensors: missing; 130 blocks are needed: run"):
        StoredBlocks(folder, IDENTITY, COUNT)
    write(stream(), folder)
    assert contents(folder) == before


def test_a_folder_of_other_blocks_is_refused(stream, folder):
    before = contents(folder)
    message = rf"{folder}: holds blocks of another corpus, tokenizer, context or seed; choose another folder of blocks"
    with pytest.raises(UserError, match=message):
        StoredBlocks(folder, IDENTITY | {"seed": 4}, COUNT)
    with pytest.raises(UserError, match=message):
        write(stream(), folder, identity=IDENTITY | {"seed": 4})
    with pytest.raises(UserError, match=message):
        write(stream(lanes=3), folder)
    assert contents(folder) == before


def test_a_folder_without_blocks_says_how_to_make_them(tmp_path):
    with pytest.raises(UserError, match=r"nothing: no blocks here; make them with python -m lab\.prepare blocks"):
        StoredBlocks(tmp_path / "nothing", IDENTITY, COUNT)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"identity": {}}'])
def test_a_damaged_index_is_told_with_its_name(stream, folder, content):
    (folder / "index.json").write_bytes(content)
    with pytest.raises(UserError, match=r"index\.json: cannot be read .*; delete"):
        StoredBlocks(folder, IDENTITY, COUNT)
    with pytest.raises(UserError, match=r"index\.json: cannot be read .*; delete"):
        write(stream(), folder)


def test_a_folder_that_cannot_be_made_is_refused(stream, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/blocks cannot be written: not a directory; choose another folder"):
        write(stream(), tmp_path / "file" / "blocks")
    (tmp_path / "blocks").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"blocks is a link to .*nowhere, which is not there: make that, or delete"):
        write(stream(), tmp_path / "blocks" / "of_sotu")


def test_what_goes_wrong_in_a_process_reaches_the_user(texts, tokenizer, tmp_path):
    corpus = texts({"": [["word " * 50], [""], [" "]]})
    with pytest.raises(UserError, match=r"all documents of lane \d were skipped"):
        write(BlockStream(corpus, "train", tokenizer, 15, seed=0, lanes=3), tmp_path, processes=2)


def test_ids_above_65535_are_stored_in_four_bytes(mixture, tmp_path):
    wide = json.loads(Tokenizer("sotu_1k/tokenizer.json").path.read_text())
    wide["added_tokens"] += [
        {**wide["added_tokens"][0], "id": number, "content": f"<{number}>"} for number in range(1024, 2**16 + 1)
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(wide))
    tokenizer = Tokenizer(str(tmp_path / "tokenizer.json"))
    assert tokenizer.vocabulary == 2**16 + 1
    keys = {"context": 31, "seed": 3, "lanes": 2, "weights": {"web": 1, "notes": 1}}
    write(BlockStream(mixture, "train", tokenizer, **keys), tmp_path / "blocks", count=12)
    with safe_open(shard_path(tmp_path / "blocks", 0, 0), framework="np") as file:
        assert file.get_tensor("tokens").dtype == np.uint32
    stored, fresh = StoredBlocks(tmp_path / "blocks", IDENTITY, 12), BlockStream(mixture, "train", tokenizer, **keys)
    for g in range(12):
        np.testing.assert_array_equal(stored.block(g).tokens, fresh.block(g).tokens, strict=True)
