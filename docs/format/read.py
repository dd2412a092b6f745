#!/usr/bin/env python3
"""Reads a Bowline repository without Bowline: docs/format.md as a program, section by section.

    read.py [KEYS] REPOSITORY list
    read.py [KEYS] REPOSITORY extract BACKUP DEST [--tablespaces DIR]
    read.py [KEYS] REPOSITORY wal SYSTEM_ID SEGMENT|HISTORY DEST
    read.py [KEYS] REPOSITORY verify BACKUP
    read.py REPOSITORY slots
    read.py REPOSITORY slot KEY_ID RECIPIENT DEST
    read.py vectors VECTORS_JSON

KEYS is --key KEYFILE, a Bowline key file, or --data-keys FILE, data keys themselves: what `bowline keys export` sealed, once it is opened,
or lines of a key id, a blank and the key in hexadecimal digits, as a KMS, a Vault or age gives it ("slot" writes what they must open;
keys that are bound to their repository are taken so, too).

REPOSITORY is a folder: the repository itself or a copy of its bucket prefix. Tablespaces go below DIR (default: DEST.tablespaces),
configuration that lay outside the data directory to DEST.config. Needs Python 3.11 or newer, the package `cryptography`
(for AES-GCM alone), and for zstd one of: Python 3.14, the package `zstandard`, the program `zstd`. The package `blake3`, where it is
there, makes it faster. What is proven absent ends the program with exit code 1; whatever is wrong, with 200, so that a server whose
restore_command is the verb `wal` never takes damage or a hole for the end of the log.
"""
import argparse
import array
import base64
import hashlib
import hmac
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

FORMAT = 1
KINDS = {"pack": 1, "manifest": 2, "segment": 3, "file": 4, "index": 5, "piece": 6, "log": 7}
HEADER_BYTES, FRAME_HEADER_BYTES, TAG_BYTES = 64, 16, 16
PLAIN_BYTES_MAX = 16 << 20
BATCH = 32
SEGMENT = re.compile("[0-9A-F]{24}(\\.pieces)?")
PIECE = re.compile("([0-9A-F]{16})-([0-9A-F]{16})-([0-9a-f]{8})")
LOG = re.compile("([0-9A-F]{16})-([0-9a-f]{8})\\.log")


class Refused(Exception):
    """What was read is not what the format says, or not what was asked for."""


class Absent(Refused):
    """It is not in the repository."""


def require(holds, what):
    if not holds:
        raise Refused(what)


# ---- Documents -------------------------------------------------------------------------------------------------------


def read_document(path):
    raw = path.read_bytes()
    cut = raw.rfind(b',\n  "digest": "')
    require(cut >= 0, f"{path}: it has no digest")
    tail = b',\n  "digest": "' + hashlib.sha256(raw[:cut]).hexdigest().encode() + b'"\n}\n'
    require(raw[cut:] == tail, f"{path}: it does not match its own digest")
    document = json.loads(raw)
    require(document["format"] <= FORMAT, f"{path}: format {document['format']} is newer than this reader ({FORMAT})")
    return document


# ---- Keys ------------------------------------------------------------------------------------------------------------


def aes_gcm_open(key, nonce, sealed, associated, what):
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise Refused("the Python package cryptography is missing: python3 -m pip install cryptography")
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise Refused(f"{what}: it is not what was sealed")


def read_key_file(path):
    """The key and the name under which it is a recipient."""
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    parts = (lines or [""])[0].split(":")
    require(len(parts) == 3 and parts[0] == "bowline-key-1", f"{path}: it is not a Bowline key file")
    key = base64.urlsafe_b64decode(parts[1] + "=")
    check = hashlib.sha256(b"bowline key file 1" + key).hexdigest()[:16]
    require(len(key) == 32 and check == parts[2], f"{path}: its check digits do not match: it was damaged")
    return key, "file:" + check


def unwrap(file_key, wrapped, repository_id, key_id):
    return aes_gcm_open(file_key, wrapped[:12], wrapped[12:], b"bowline wrap 1" + repository_id + key_id, f"data key {key_id.hex()}")


def unbind(bound, repository_id, key_id):
    """The data key inside a bound one."""
    mark = b"bowline bound 1" + repository_id + key_id
    require(bound[:47] == mark and len(bound) == 79, f"data key {key_id.hex()}: what was opened is another key, or of another repository")
    return bound[47:]


def read_data_keys(path, repository_id):
    """Data keys as they are, by id."""
    text, found = path.read_text(), {}
    if text.lstrip().startswith("{"):
        said = json.loads(text)
        require(said["repository"] == repository_id.hex(), f"{path}: these are the keys of repository {said['repository']}")
        pairs = [(one["id"], one["key"]) for one in said["data_keys"]]
    else:
        pairs = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for pair in pairs:
        require(len(pair) == 2, f"{path}: each line is a key id, a blank and the key")
        key = bytes.fromhex(pair[1])
        found[pair[0]] = key if len(key) == 32 else unbind(key, repository_id, bytes.fromhex(pair[0]))
    return found


def how_to_open(recipient):
    """What whoever holds this recipient does with what the verb "slot" writes."""
    kind = recipient.partition(":")[0]
    return {
        "file": "give that key file with --key",
        "aws-kms": "aws kms decrypt --ciphertext-blob fileb://DEST --encryption-context bowline:repository=…,bowline:key=…",
        "vault-transit": "bao write …/decrypt/… ciphertext=@DEST with context and associated_data as docs/format.md says",
        "age": "age --decrypt -i IDENTITY DEST",
    }.get(kind, "this reader does not know how")


# ---- Objects ---------------------------------------------------------------------------------------------------------


def object_key(data_key, header, repository_id, path):
    """HKDF-SHA-256; one block is all that 32 bytes need."""
    extracted = hmac.digest(header[32:], data_key, "sha256")
    return hmac.digest(extracted, header[:32] + repository_id + path.encode() + b"\x01", "sha256")


class SealedObject:
    """What a header and its place say of an object: enough to open its frames."""

    def __init__(self, header, kind, path, repository_id, sealed_only, data_key_of):
        require(len(header) == HEADER_BYTES and header[:7] == b"BOWLINE", f"{path}: not a Bowline object")
        require(header[7] == FORMAT, f"{path}: format {header[7]}, this reader knows {FORMAT}")
        require(header[8] == KINDS[kind], f"{path}: kind {header[8]} where a {kind} belongs")
        require(header[9] in (0, 1), f"{path}: unknown cipher {header[9]}")
        require(header[9] == 1 or not sealed_only, f"{path}: it is not encrypted although this repository is")
        self.path, self.key = path, None
        if header[9] == 1:
            self.key = object_key(data_key_of(header[16:32].hex()), header, repository_id, path)
        self.context = hashlib.sha256(header + repository_id + path.encode()).digest()

    def open_frame(self, frame, number):
        """Proves a frame and returns (codec, payload, plain length, whether it is the last)."""
        head, body = frame[:FRAME_HEADER_BYTES], frame[FRAME_HEADER_BYTES:]
        where = f"{self.path}, frame {number}"
        stored, plain_bytes, found, codec, last = frame_header(head, where)
        require(stored == len(body), f"{where}: it ends too early")
        require(found == number, f"{where}: frame {found} is in its place")
        if self.key:
            payload = aes_gcm_open(self.key, bytes(7) + struct.pack(">IB", number, last), body, head, where)
        else:
            payload, checksum = body[:-TAG_BYTES], body[-TAG_BYTES:]
            require(hashlib.sha256(self.context + head + payload).digest()[:TAG_BYTES] == checksum, f"{where}: it is damaged")
        return codec, payload, plain_bytes, last


def frame_header(head, where):
    require(len(head) == FRAME_HEADER_BYTES, f"{where}: it ends too early")
    stored, plain_bytes, number, codec, flags, zero = struct.unpack("<IIIBBH", head)
    require(plain_bytes <= PLAIN_BYTES_MAX, f"{where}: a plain length beyond the limit")
    require(TAG_BYTES <= stored <= plain_bytes + TAG_BYTES, f"{where}: a stored length that no writer makes")
    require(flags in (0, 1) and zero == 0, f"{where}: unknown flags")
    return stored, plain_bytes, number, codec, flags


# ---- Codecs ----------------------------------------------------------------------------------------------------------


def decompress_all(frames, where):
    """The plain bytes of several opened frames, so that the program zstd starts once for many."""
    plain = [payload if codec == 0 else lz4_block(payload, where) if codec == 2 else None for codec, payload, _, _ in frames]
    packed = [(at, payload, size) for at, (codec, payload, size, _) in enumerate(frames) if codec == 1]
    for (at, _, _), found in zip(packed, unzstd([(payload, size) for _, payload, size in packed], where)):
        plain[at] = found
    for (codec, _, size, _), found in zip(frames, plain):
        require(found is not None, f"{where}: unknown codec {codec}")
        require(len(found) == size, f"{where}: a plain length that is not the frame's")
    return plain


def unzstd(packed, where):
    if not packed:
        return []
    try:
        from compression import zstd
        return [zstd.decompress(payload) for payload, _ in packed]
    except ImportError:
        pass
    try:
        import zstandard
        return [zstandard.ZstdDecompressor().decompress(payload, max_output_size=size) for payload, size in packed]
    except ImportError:
        pass
    require(shutil.which("zstd"), "nothing here reads zstd: install the program zstd, or the Python package zstandard")
    run = subprocess.run(["zstd", "-dcq"], input=b"".join(payload for payload, _ in packed), capture_output=True)
    require(run.returncode == 0, f"{where}: zstd cannot read it: {run.stderr.decode(errors='replace').strip()}")
    require(len(run.stdout) == sum(size for _, size in packed), f"{where}: a plain length that is not the frame's")
    found, at = [], 0
    for _, size in packed:
        found.append(run.stdout[at:at + size])
        at += size
    return found


def lz4_block(packed, where):
    """The LZ4 block format: sequences of literals and of copies of what was already written."""
    out, at = bytearray(), 0

    def length(nibble, at):
        while nibble >= 15:
            more, at = packed[at], at + 1
            nibble += more
            if more < 255:
                break
        return nibble, at

    try:
        while True:
            token, at = packed[at], at + 1
            literals, at = length(token >> 4, at)
            require(at + literals <= len(packed), f"{where}: lz4 cannot read it")
            out += packed[at:at + literals]
            at += literals
            if at == len(packed):
                return bytes(out)
            offset, at = packed[at] | packed[at + 1] << 8, at + 2
            copy, at = length(token & 15, at)
            copy += 4
            require(0 < offset <= len(out) and len(out) + copy <= PLAIN_BYTES_MAX, f"{where}: lz4 cannot read it")
            piece = bytes(out[-offset:])[:copy]
            out += (piece * (copy // len(piece) + 1))[:copy]
    except IndexError:
        raise Refused(f"{where}: lz4 cannot read it")


# ---- Logs ------------------------------------------------------------------------------------------------------------


def open_log(sealed, stored):
    """What a log holds, and what is wrong with the frame behind that when it is damaged, else None."""
    at, frames, damage = HEADER_BYTES, [], None
    while at < len(stored) and not damage:
        try:
            size, opened = log_frame(sealed, stored, at, len(frames))
            at += size
            frames.append(opened)
        except Refused as trouble:
            if never_written(sealed, stored, at, len(frames)) and not goes_on(sealed, stored, at, len(frames)):
                break
            damage = trouble
    return b"".join(decompress_all(frames, sealed.path)), damage


def log_frame(sealed, stored, at, number):
    """How many bytes the frame takes that begins there, and what it is once opened."""
    where = f"{sealed.path}, frame {number}"
    size = FRAME_HEADER_BYTES + frame_header(stored[at:at + FRAME_HEADER_BYTES], where)[0]
    opened = sealed.open_frame(stored[at:at + size], number)
    require(not opened[3], f"{where}: it is a last one, which a log has not")
    return size, opened


def never_written(sealed, stored, at, number):
    """Whether this frame, which does not open, was never written in full: it is cut short, or blocks of it never reached the disk."""
    head, body = stored[at:at + FRAME_HEADER_BYTES], stored[at + FRAME_HEADER_BYTES:]
    try:
        size = frame_header(head, sealed.path)[0]
    except Refused:
        return len(head) < FRAME_HEADER_BYTES or not any(head)
    if size <= len(body) and bytes(16) not in body[:size]:
        return False
    # Is it whole after all, and only its length damaged? Zeros may follow it, and it may end in some.
    written = len(body.rstrip(b"\0"))
    for end in range(max(written, 1), min(written + 3, len(body)) + 1):
        try:
            log_frame(sealed, struct.pack("<I", end) + head[4:] + body[:end], 0, number)
            return False
        except Refused:
            continue
    return True


def goes_on(sealed, stored, at, number):
    """Whether a later frame begins anywhere behind: then the one with this number was whole once."""
    # Its number first, and what follows that in every header: they rule out nearly every place.
    for match in re.compile(rb"(?=.{8}(.{4}).\0{3})", re.DOTALL).finditer(stored, at + 1):
        found = int.from_bytes(match[1], "little")
        if number < found <= number + 4096:
            try:
                log_frame(sealed, stored, match.start(), found)
                return True
            except Refused:
                continue
    return False


# ---- Digests ---------------------------------------------------------------------------------------------------------

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED = 1, 2, 4, 8, 16


def digest(plain, key):
    """The first 16 bytes of BLAKE3, keyed when there is a key."""
    try:
        import blake3
        return blake3.blake3(plain, key=key).digest(16) if key else blake3.blake3(plain).digest(16)
    except ImportError:
        return own_blake3(plain, key)


def own_blake3(plain, key):
    """BLAKE3 in plain Python, all chunks side by side: each number holds one 32-bit word of every chunk, 64 bits apart."""
    cv, flags = (struct.unpack("<8I", key), KEYED) if key else (IV, 0)
    whole = len(plain) // 1024 if len(plain) % 1024 else max(len(plain) // 1024 - 1, 0)
    rest = plain[whole * 1024:]
    nodes = blake3_chunks(plain[:whole * 1024], 0, whole, 1024, cv, flags) if whole else [array.array("Q") for _ in range(8)]
    last = blake3_chunks(rest + bytes(-len(rest) % 64 or 64 * (not rest)), whole, 1, len(rest), cv, flags | (0 if whole else ROOT << 8))
    nodes = [node + more for node, more in zip(nodes, last)]
    while len(nodes[0]) > 1:
        pairs = len(nodes[0]) // 2
        block = [lanes(node[side:2 * pairs:2]) for side in (0, 1) for node in nodes]
        root = ROOT if len(nodes[0]) == 2 else 0
        out = blake3_compress(pairs, [word * ones(pairs) for word in cv], block, 0, 64, PARENT | flags | root)
        nodes = [unlanes(word, pairs) + node[2 * pairs:] for word, node in zip(out, nodes)]
    return struct.pack("<4I", *(node[0] for node in nodes[:4]))


def blake3_chunks(data, first, count, size, cv, flags):
    words = array.array("I", data)
    if sys.byteorder == "big":
        words.byteswap()
    blocks, stride = max(1, -(-size // 64)), len(data) // 4 // count
    state, counter = [word * ones(count) for word in cv], lanes(array.array("Q", range(first, first + count)))
    for at in range(blocks):
        final = at == blocks - 1
        block = [lanes(array.array("Q", words[16 * at + word::stride])) for word in range(16)]
        flag = flags & 0xFF | (CHUNK_START if at == 0 else 0) | (CHUNK_END | flags >> 8 if final else 0)
        state = blake3_compress(count, state, block, counter, size - 64 * at if final else 64, flag)
    return [unlanes(word, count) for word in state]


def blake3_compress(count, cv, m, counter, length, flags):
    one = ones(count)
    mask = one * 0xFFFFFFFF
    v = list(cv) + [word * one for word in IV[:4]] + [counter, 0, length * one, flags * one]

    def mix(a, b, c, d, x, y):
        for message, first, second in ((x, 16, 12), (y, 8, 7)):
            v[a] = v[a] + v[b] + message & mask
            v[d] ^= v[a]
            v[d] = (v[d] >> first | v[d] << 32 - first) & mask
            v[c] = v[c] + v[d] & mask
            v[b] ^= v[c]
            v[b] = (v[b] >> second | v[b] << 32 - second) & mask

    for _ in range(7):
        for column in range(4):
            mix(column, 4 + column, 8 + column, 12 + column, m[2 * column], m[2 * column + 1])
        for column in range(4):
            mix(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4, m[8 + 2 * column], m[9 + 2 * column])
        m = [m[at] for at in ORDER]
    return [low ^ high for low, high in zip(v[:8], v[8:])]


def ones(count):
    return ((1 << 64 * count) - 1) // ((1 << 64) - 1) if count else 0


def lanes(words):
    return int.from_bytes(struct.pack(f"<{len(words)}Q", *words), "little")


def unlanes(number, count):
    return array.array("Q", struct.unpack(f"<{count}Q", number.to_bytes(8 * count, "little")))


# ---- Repository ------------------------------------------------------------------------------------------------------


class Repository:
    def __init__(self, root, key_path, data_keys_path=None, looks_only=False):
        self.root = pathlib.Path(root)
        require((self.root / "repository.json").is_file(), f"{root}: there is no repository.json here")
        self.document = read_document(self.root / "repository.json")
        self.id = bytes.fromhex(self.document["id"])
        self.sealed_only = self.document["encryption"] == "aes-256-gcm"
        require(self.document["encryption"] in ("aes-256-gcm", "off"), f"unknown encryption {self.document['encryption']!r}")
        given = key_path or data_keys_path
        if self.sealed_only and not given and not looks_only:
            # Of one key as an example of all.
            raise Refused("this repository is encrypted: give a key file with --key, or data keys with --data-keys. Any one of these opens it: "
                          + ", ".join(self.slots(self.document["digest_key"])))
        require(self.sealed_only or not given, "repository.json says that nothing is encrypted, yet there is a key: "
                "somebody may have replaced it. If encryption was switched off on purpose, leave out --key")
        self.recipient = read_key_file(pathlib.Path(key_path)) if key_path else None
        self.data_keys = read_data_keys(pathlib.Path(data_keys_path), self.id) if data_keys_path else {}

    def slots(self, key_id):
        path = self.root / "keys" / f"{key_id}.json"
        require(path.is_file(), f"data key {key_id} is not in the repository")
        return {slot["recipient"]: base64.b64decode(slot["wrapped"], validate=True) for slot in read_document(path)["slots"]}

    def key_ids(self):
        return sorted(path.stem for path in (self.root / "keys").glob("*.json"))

    def data_key(self, key_id):
        if key_id not in self.data_keys:
            slots = self.slots(key_id)
            require(self.recipient, f"data key {key_id} is not among those of --data-keys; any one of these opens it: {', '.join(slots)}")
            file_key, name = self.recipient
            require(name in slots, f"data key {key_id} is wrapped for {', '.join(slots)}, not for {name}")
            self.data_keys[key_id] = unwrap(file_key, slots[name], self.id, bytes.fromhex(key_id))
        return self.data_keys[key_id]

    def digest_key(self):
        return self.data_key(self.document["digest_key"]) if self.sealed_only else None

    def open(self, path, kind, header):
        return SealedObject(header, kind, path, self.id, self.sealed_only, self.data_key)

    def stream(self, path, kind):
        """The plain bytes of an object that is read from front to back, piece by piece."""
        if not (self.root / path).exists():
            raise Absent(f"{path}: it is not in the repository")
        with open(self.root / path, "rb") as file:
            sealed, number, last, batch = self.open(path, kind, file.read(HEADER_BYTES)), 0, 0, []
            while not last:
                head = file.read(FRAME_HEADER_BYTES)
                body = file.read(frame_header(head, f"{path}, frame {number}")[0])
                batch.append(sealed.open_frame(head + body, number))
                number, last = number + 1, batch[-1][3]
                if last or len(batch) == BATCH:
                    yield from decompress_all(batch, path)
                    batch = []
            require(not file.read(1), f"{path}: something follows its last frame")

    def log(self, path):
        """What a log holds, and what is wrong with it where it is damaged."""
        stored = (self.root / path).read_bytes()
        if len(stored) < HEADER_BYTES or not any(stored):
            return b"", None
        try:
            return open_log(self.open(path, "log", stored[:HEADER_BYTES]), stored)
        except Refused as trouble:
            return b"", trouble

    # ---- Backups -----------------------------------------------------------------------------------------------------

    def backup_ids(self):
        return sorted(path.parent.name for path in self.root.glob("full/*/backup.json"))

    def backup(self, backup_id):
        path = self.root / "full" / backup_id / "backup.json"
        require(path.is_file(), f"there is no backup {backup_id}; there are: {', '.join(self.backup_ids()) or 'none'}")
        document = read_document(path)
        require(document["id"] == backup_id and document["repository"] == self.document["id"], f"{path}: it belongs to another backup or repository")
        return document

    def manifest(self, backup):
        """The lines of a manifest as (word, content), checked against each other and against backup.json."""
        path, pending, ended, files, size, header = f"full/{backup['id']}/manifest", b"", False, 0, 0, None
        for piece in self.stream(path, "manifest"):
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                ((word, content),) = json.loads(line).items()
                require(not ended and (word == "header") == (header is None), f"{path}: its lines are out of order")
                if word == "header":
                    header = content
                    require(header["format"] <= FORMAT, f"{path}: format {header['format']} is newer than this reader ({FORMAT})")
                    require(header["backup"] == backup["id"], f"{path}: it belongs to another backup")
                    for name in ("repository", "kind", "system_id", "major", "server_version", "timeline", "start", "segment_bytes", "encryption"):
                        require(header[name] == backup[name], f"{path}: its {name} is not that of backup.json, which may have been altered")
                    require(header.get("pack_key") == backup.get("key"), f"{path}: its key is not that of backup.json")
                elif word in ("file", "config"):
                    chunks = -(-content["size"] // header["chunk_bytes"])
                    fits = len(content["chunks"]) in ({0, 1} if chunks == 0 else {chunks})
                    require(fits, f"{path}: {content['path']} has not as many chunks as its size needs")
                    files, size = files + 1, size + content["size"]
                elif word == "end":
                    ended = True
                    require((content["files"], content["bytes"]) == (files, size), f"{path}: its totals do not match its lines")
                    for name in ("stop", "files", "bytes", "packs"):
                        require(content[name] == backup[name], f"{path}: its {name} is not that of backup.json, which may have been altered")
                else:
                    require(word in ("dir", "tablespace"), f"{path}: a line of an unknown kind, {word!r}")
                yield word, content
        require(ended and not pending, f"{path}: it has no end")

    def chunks(self, backup, wanted):
        """Opens chunks in the manifest's order: takes (what, at, bytes, chunk) and gives (what, at, plain)."""
        key, number, sealed, file, frames, stored_in_all, batch = self.digest_key(), 0, None, None, 0, HEADER_BYTES, []

        def flush():
            for (what, at, _, wanted_digest, where), plain in zip(batch, decompress_all([b[2] for b in batch], f"full/{backup['id']}")):
                require(digest(plain, key).hex() == wanted_digest, f"{where}: a chunk does not match its digest")
                yield what, at, plain

        def end_of_pack():
            # Every byte of a pack is the header's, a chunk's of this manifest, or the last frame's.
            if file:
                file.seek(stored_in_all)
                last = sealed.open_frame(file.read(), frames)
                require(last[1:] == (b"", 0, 1), f"{sealed.path}: it does not end with an empty last frame")
                file.close()

        for what, at, size, (pack, offset, stored, wanted_digest) in wanted:
            if pack != number:
                require(pack == number + 1, f"full/{backup['id']}: the packs of its chunks are out of order")
                end_of_pack()
                path = f"full/{backup['id']}/data/{pack:06}"
                require((self.root / path).is_file(), f"{path}: it is not in the repository")
                file, number, frames, stored_in_all = open(self.root / path, "rb"), pack, 0, HEADER_BYTES
                sealed = self.open(path, "pack", file.read(HEADER_BYTES))
            file.seek(offset)
            opened = sealed.open_frame(file.read(stored), frames)
            where = f"{what} at byte {at} ({sealed.path}, frame {frames})"
            require(opened[2] == size and not opened[3], f"{where}: it is not the chunk that the manifest names")
            frames, stored_in_all = frames + 1, stored_in_all + stored
            batch.append((what, at, opened, wanted_digest, where))
            if len(batch) == BATCH:
                yield from flush()
                batch = []
        yield from flush()
        end_of_pack()
        require(number == backup["packs"], f"full/{backup['id']}: it has not as many packs as backup.json says")

    # ---- WAL ---------------------------------------------------------------------------------------------------------

    def wal_path(self, system_id, name):
        timeline = name[:8]
        require(system_id.isdigit() and len(timeline) == 8 and name.replace(".", "").isalnum(), f"{name}: not the name of a WAL file")
        return f"wal/{system_id}/{name}" if name.endswith(".history") else f"wal/{system_id}/{timeline}/{name}"

    def wal(self, system_id, name):
        kind, path = "file" if name.endswith((".history", ".backup")) else "segment", self.wal_path(system_id, name)
        try:
            return b"".join(self.stream(path, kind))
        except Absent:
            if kind == "file":
                raise
            whole, plain = self.pieces(path)
            stored = sorted(other.name for other in (self.root / path).parent.glob("*"))
            later = (other for other in stored if SEGMENT.fullmatch(other) and other[:24] > name)
            later = next((other for other in later if self.is_there(f"{path[:-24]}{other}")), None)
            require(whole or later is None, f"{name} is not whole in the repository, but {later} is there: a hole, not the end of the log")
            if not plain:
                raise
            return plain

    # Pieces
    def is_there(self, path):
        """Whether a segment is stored whole, or anything of it in pieces."""
        return not path.endswith(".pieces") or any(self.found(path))

    def found(self, folder):
        """The pieces of a segment as (begin, end, session, their path, a log's bytes), and its damaged logs as (begin, what is wrong)."""
        found, damaged = [], []
        for file in (self.root / folder).glob("*"):
            path = f"{folder}/{file.name}"
            if match := PIECE.fullmatch(file.name):
                found.append((int(match[1], 16), int(match[2], 16), match[3], path, None))
            elif match := LOG.fullmatch(file.name):
                begin, (plain, trouble) = int(match[1], 16), self.log(path)
                if trouble:
                    damaged.append((begin, trouble))
                elif plain:
                    found.append((begin, begin + len(plain), match[2], path, plain))
        return found, damaged

    def pieces(self, path):
        """What the pieces of a segment make up: whether all of it, and its bytes, zeros where nothing is stored."""
        found, damaged_logs = self.found(f"{path}.pieces")
        if not found and not damaged_logs:
            return False, b""
        # The first piece begins with the segment's long page header, which tells the segment's size.
        start = min(begin for begin, *_ in found + damaged_logs)
        furthest = self.chain(found, start)
        while True:
            chosen, at, plain, damaged = self.chain(found, start), start, b"", None
            for piece in chosen:
                begin, end, _, object_path, bytes_of = piece
                try:
                    bytes_of = bytes_of or b"".join(self.stream(object_path, "piece"))
                    require(len(bytes_of) == end - begin, f"{object_path}: it has {len(bytes_of)} bytes")
                except Refused as trouble:
                    damaged = piece, trouble
                    break
                plain += bytes_of[at - begin:]
                at = end
            if damaged is None:
                break
            found.remove(damaged[0])
            again = self.chain(found, start)
            if not again or again[-1][1] < furthest[-1][1]:
                raise damaged[1]
        size = int.from_bytes(plain[32:36], "little")
        # How far a damaged log went is not known.
        for begin, trouble in damaged_logs:
            if begin <= at and len(plain) != (size or None):
                raise trouble
        require(len(plain) >= 40, f"{path}.pieces: the segment's header is not there")
        require(int.from_bytes(plain[8:16], "little") == start and size and start % size == 0, f"{path}.pieces: the segment's beginning is not there")
        require(len(plain) <= size, f"{path}.pieces: more than a segment")
        return len(plain) == size, plain.ljust(size, b"\0")

    def chain(self, found, at):
        chosen = []
        while True:
            step = max((piece for piece in found if piece[0] <= at < piece[1]), key=lambda piece: piece[1:3], default=None)
            if step is None:
                return chosen
            chosen.append(step)
            at = step[1]

    def segments(self, backup):
        """The names of the segments that the backup needs to become consistent."""
        def position(lsn):
            high, low = lsn.split("/")
            return int(high, 16) << 32 | int(low, 16)

        size = backup["segment_bytes"]
        first, last = position(backup["start"]["lsn"]) // size, (position(backup["stop"]["lsn"]) - 1) // size
        per_high = (1 << 32) // size
        return [f"{backup['timeline']:08X}{number // per_high:08X}{number % per_high:08X}" for number in range(first, last + 1)]


# ---- Paths -----------------------------------------------------------------------------------------------------------


def decode(text):
    """A path of the manifest as this system's own: %XX stands for one byte."""
    first, *others = text.encode().split(b"%")
    try:
        path = first + b"".join(bytes.fromhex(other[:2].decode()) + other[2:] for other in others)
    except ValueError:
        raise Refused(f"{text!r}: a path with a wrong escape")
    require(b"\0" not in path and not any(len(other) < 2 for other in others), f"{text!r}: a path with a wrong escape")
    return os.fsdecode(path)


def inside(folder, path, text):
    parts = path.split("/")
    require(all(part not in ("", ".", "..") for part in parts), f"{text!r}: a path that leads out of its folder")
    return folder.joinpath(*parts)


# ---- Restoring by hand -----------------------------------------------------------------------------------------------


def pieces(what, content, chunk_bytes):
    for index, chunk in enumerate(content["chunks"]):
        yield what, index * chunk_bytes, min(content["size"] - index * chunk_bytes, chunk_bytes), chunk


def extract(repository, backup_id, dest, tablespaces):
    backup = repository.backup(backup_id)
    dest.mkdir(mode=0o700, exist_ok=True)
    require(not any(dest.iterdir()), f"{dest}: it is not empty")
    os.chmod(dest, 0o700)
    control, chunk_bytes = dest / "global" / "pg_control", 0

    def beside(word):
        return dest.with_name(f"{dest.name}.{word}")

    def wanted():
        nonlocal chunk_bytes
        for word, content in repository.manifest(backup):
            if word == "dir":
                folder = inside(dest, decode(content["path"]), content["path"])
                folder.mkdir(mode=0o700, exist_ok=True)
                os.chmod(folder, content["mode"] & 0o777)
            elif word == "tablespace":
                link = dest / "pg_tblspc" / str(int(content["oid"]))
                link.parent.mkdir(mode=0o700, exist_ok=True)
                # A link, never a plain directory: PostgreSQL refuses to start with one (allow_in_place_tablespaces).
                place = (tablespaces or beside("tablespaces")).absolute() / link.name
                place.mkdir(mode=0o700, parents=True)
                link.symlink_to(place)
                print(f"tablespace {content['oid']} was at {content['location']}, is at {place}")
            elif word in ("file", "config"):
                path = inside(dest, decode(content["path"]), content["path"]) if word == "file" else config_place(content["path"])
                # A folder without its control file is no cluster: it gets its name when all else is there.
                path = control.with_name("pg_control.part") if path == control else path
                with open(path, "xb"):
                    os.chmod(path, content["mode"] & 0o777)
                yield from pieces(path, content, chunk_bytes)
            elif word == "header":
                chunk_bytes = content["chunk_bytes"]

    def config_place(text):
        path = decode(text)
        require(path.startswith("/"), f"{text!r}: configuration must have an absolute path")
        kept = inside(beside("config"), path[1:], text)
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        print(f"configuration {path} is at {kept}")
        return kept

    for path, at, plain in repository.chunks(backup, wanted()):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(plain)
    for folder in ("pg_wal", "pg_wal/archive_status"):
        (dest / folder).mkdir(mode=0o700, exist_ok=True)
    os.sync()
    control.with_name("pg_control.part").rename(control)
    os.sync()
    print(f"backup {backup_id} of PostgreSQL {backup['server_version']} is in {dest}")
    segments = repository.segments(backup)
    print(f"It needs the WAL of system {backup['system_id']} from {segments[0]} to {segments[-1]} at least; more brings it further.")


def verify(repository, backup_id):
    backup = repository.backup(backup_id)

    def wanted():
        for word, content in repository.manifest(backup):
            if word in ("file", "config"):
                yield from pieces(content["path"], content, chunk_bytes)
            elif word == "header":
                chunk_bytes = content["chunk_bytes"]

    size = sum(len(plain) for _, _, plain in repository.chunks(backup, wanted()))
    require(size == backup["bytes"], f"backup {backup_id} has {size} bytes, not {backup['bytes']}")
    for name in repository.segments(backup):
        found = len(repository.wal(backup["system_id"], name))
        require(found == backup["segment_bytes"], f"WAL segment {name} has {found} bytes")
    print(f"backup {backup_id}: {backup['files']} files, {size} bytes and its WAL are what was written")


def list_all(repository):
    for backup_id in repository.backup_ids():
        backup = repository.backup(backup_id)
        print(f"{backup_id}  PostgreSQL {backup['server_version']}  system {backup['system_id']}  timeline {backup['timeline']}  "
              f"consistent at {backup['stop']['lsn']} ({backup['stop']['time']})  {backup['bytes']} bytes")
    for folder in sorted(repository.root.glob("wal/*/*")):
        names = sorted(path.name for path in folder.iterdir() if len(path.name) == 24) if folder.is_dir() else []
        if names:
            print(f"WAL of system {folder.parent.name}, timeline {folder.name}: {len(names)} segments, {names[0]} to {names[-1]}")


def check_log(sealed, vector, whole):
    """Cut anywhere, or without its last blocks, a log is a shorter one; a changed byte is damage."""
    ends = [HEADER_BYTES]
    for frame in vector["frames"]:
        ends.append(ends[-1] + len(frame["frame"]) // 2)
    added = [bytes.fromhex(frame["plain"]) for frame in vector["frames"]]
    for cut in range(HEADER_BYTES, len(whole) + 1):
        wanted = b"".join(added[:sum(end <= cut for end in ends[1:])])
        require(open_log(sealed, whole[:cut]) == (wanted, None), f"{vector['path']}: cut at {cut} it reads otherwise")
    ahead = bytes(1000)
    require(open_log(sealed, whole + ahead) == (b"".join(added), None), f"{vector['path']}: with zeros written ahead it reads otherwise")
    for at in range(HEADER_BYTES, len(whole)):
        bad = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:]
        for stored in (bad, bad + ahead):
            require(open_log(sealed, stored)[1], f"{vector['path']}: byte {at} changed and nobody noticed")
    lost = whole[:ends[2] + 20] + bytes(len(whole) - ends[2] - 20)
    require(open_log(sealed, lost) == (b"".join(added[:2]), None), f"{vector['path']}: without its last blocks it reads otherwise")


def check_vectors(path):
    """Proves this reader with the test vectors of the format."""
    said = json.loads(path.read_text())
    repository_id, key_id, data_key = (bytes.fromhex(said[name]) for name in ("repository_id", "key_id", "data_key"))
    for name in ("pack", "plain_pack", "whole", "plain_whole", "index", "log", "plain_log"):
        vector = said[name]
        kind = next(word for word, number in KINDS.items() if number == vector["kind"])
        whole = bytes.fromhex(vector.get("header") or vector["object"])
        header, rest = whole[:HEADER_BYTES], whole[HEADER_BYTES:]
        sealed = SealedObject(header, kind, vector["path"], repository_id, False, lambda wanted: {key_id.hex(): data_key}[wanted])
        require(sealed.key is None or vector.get("object_key", sealed.key.hex()) == sealed.key.hex(), "the object key differs")
        for frame in vector.get("frames") or [{"number": 0, "last": True, "plain": vector["plain"], "frame": rest.hex()}]:
            opened = sealed.open_frame(bytes.fromhex(frame["frame"]), frame["number"])
            require(opened[3] == frame["last"] and decompress_all([opened], name) == [bytes.fromhex(frame["plain"])], f"{name}: a frame differs")
        if kind == "log":
            check_log(sealed, vector, whole)
    for vector in said["digests"]["of"]:
        plain = bytes(at % 251 for at in range(vector["bytes"]))
        for key, wanted in ((data_key, vector["keyed"]), (None, vector["unkeyed"])):
            require(own_blake3(plain, key).hex() == wanted == digest(plain, key).hex(), f"the digest of {len(plain)} bytes differs")
    wrapped = said["wrapped"]
    opened = unwrap(bytes.fromhex(wrapped["file_key"]), bytes.fromhex(wrapped["wrapped"]), repository_id, key_id)
    require(opened == data_key, "the wrapped key differs")
    require(unbind(bytes.fromhex(said["bound"]["bound"]), repository_id, key_id) == data_key, "the bound key differs")
    print("every vector is read as the format says")


def main():
    if sys.argv[1:2] == ["vectors"]:
        return check_vectors(pathlib.Path(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key", metavar="KEYFILE")
    parser.add_argument("--data-keys", metavar="FILE")
    parser.add_argument("repository")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list")
    verb = verbs.add_parser("extract")
    verb.add_argument("backup")
    verb.add_argument("dest", type=pathlib.Path)
    verb.add_argument("--tablespaces", type=pathlib.Path, metavar="DIR")
    verb = verbs.add_parser("wal")
    verb.add_argument("system_id")
    verb.add_argument("name")
    verb.add_argument("dest", type=pathlib.Path)
    verb = verbs.add_parser("verify")
    verb.add_argument("backup")
    verbs.add_parser("slots")
    verb = verbs.add_parser("slot")
    verb.add_argument("key_id")
    verb.add_argument("recipient")
    verb.add_argument("dest", type=pathlib.Path)
    try:
        asked = parser.parse_args()
    except SystemExit as leaving:
        sys.exit(200 if leaving.code else 0)
    repository = Repository(asked.repository, asked.key, asked.data_keys, asked.verb in ("slots", "slot"))
    if asked.verb == "slots":
        for key_id in repository.key_ids():
            for recipient in repository.slots(key_id):
                print(f"{key_id}  {recipient}  ({how_to_open(recipient)})")
    elif asked.verb == "slot":
        slots = repository.slots(asked.key_id)
        require(asked.recipient in slots, f"data key {asked.key_id} is wrapped for {', '.join(slots)}")
        with open(asked.dest, "xb") as file:
            file.write(slots[asked.recipient])
    elif asked.verb == "list":
        list_all(repository)
    elif asked.verb == "extract":
        extract(repository, asked.backup, asked.dest, asked.tablespaces)
    elif asked.verb == "verify":
        verify(repository, asked.backup)
    else:
        plain = repository.wal(asked.system_id, asked.name)
        dest = asked.dest / asked.name if asked.dest.is_dir() else asked.dest
        with open(dest, "xb") as file:
            os.chmod(dest, 0o600)
            file.write(plain)


if __name__ == "__main__":
    try:
        main()
    except Exception as trouble:
        known = isinstance(trouble, (Refused, OSError))
        print(f"error: {trouble}" if known else f"error: the repository is not as the format says: {trouble!r}", file=sys.stderr)
        sys.exit(1 if isinstance(trouble, Absent) else 200)
