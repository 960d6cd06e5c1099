"""The control block, byte by byte.

One POSIX shared-memory object per domain. This file is its only description: a drawing,
offsets each derived from the one before, the fields of each word that has some
(`BitField`), and assertions. `cshim/layout.h` is generated from it (`cheader.py`), and
tests compare the header and the compiled library with it. The object is written by
every member of the domain (the owner lines below say which member writes which word)
and survives all of them.

    ┌──────────────────────────────┐ 0
    │ header, 4 KiB                │ magic, version (stored last), sizes, election, ...
    ├──────────────────────────────┤ MEMBERS_OFFSET
    │ member slots                 │ maxMembers x 256 B: state, robust word, identity
    ├──────────────────────────────┤ Geometry.indexOffset
    │ name index                   │ indexSlots x 8 B: {hash, incarnation, row}, a hint
    ├──────────────────────────────┤ Geometry.rowsOffset   (grown by ROW_CHUNK rows: `rowsReady`)
    │ buffer rows                  │ maxBuffers x 960 B: state, description, owner lock, ...
    ├──────────────────────────────┤ Geometry.fencesOffset (grown with the rows)
    │ fence words                  │ maxBuffers x 256 B: what GPUs write and wait for
    ├──────────────────────────────┤ Geometry.areasOffset  (grown when a member joins)
    │ member areas                 │ maxMembers x (maxLeases x 16 B: lease slots, 4 KiB: cells)
    └──────────────────────────────┘ Geometry.totalBytes

The object is sparse. The creator allocates header, slots and index. Rows and areas are
allocated with `posix_fallocate` just before their first use, so that a full `/dev/shm`
is an error and never a SIGBUS. No process touches a row at or above `rowsReady`, nor
the area of a slot that has never been LIVE: reading a hole would allocate it.

All integers are little-endian and naturally aligned. Offsets named ``*_OFFSET`` are
relative to the structure that they are in.

The counters, and what happens when a counter reaches its end:

====================  =====  ===========================================================
counter               bits   at its end
====================  =====  ===========================================================
epoch                 24     from half of it on, the first process of a domain begins it
                             anew (`repair.renew`). At the end no further term begins
                             (`TableFull`). The election word would have room for 48
                             bits, rows have 24
incarnation of a row  24     the row is granted no more until the domain begins anew
rows (`rowsReady`)    40     not reached: maxBuffers is the bound
generation of a slot  32     begins at 1 again. Leases carry 12 bits of it, tickets 16,
                             owner locks 19; a dead member's words are cleared first. So
                             only a deposed broker, stopped between a look and its CAS
                             for exactly so many members, could take one for another
publications          64     not reached
tickets               64     not reached. The ring keeps 32 bits, of which half are
                             enough to tell before from after
heartbeat             64     not reached
wake words            16-32  wrap. They are compared with a value that was read a moment
                             before, and every sleep has a bound
times, cells          63-64  not reached: milliseconds, and what members count
====================  =====  ===========================================================
"""

from __future__ import annotations

from muninn.control.bits import BitField
from muninn.system.pages import PAGE_BYTES

MAGIC = b"MUNINN\x00\x01"
#: Raised when a process of the old version could misread anything in the block; members
#: of different versions refuse each other by MNN-0019.
VERSION = 11
CACHE_LINE_BYTES = 64

# --- header --------------------------------------------------------------------------
# owner: the creator, under the lock file's CREATE byte; never written again once
# VERSION is stored. A stale read costs nothing.
MAGIC_OFFSET = 0
# owner: the creator, release store, last of all: everything else is valid once this is.
# A process that has the CREATE byte clears it to withdraw the block, and may store it
# again. A stale read costs one more attempt to join. u32
VERSION_OFFSET = MAGIC_OFFSET + 8
# owner: the creator, as for MAGIC.
BOOT_ID_OFFSET = VERSION_OFFSET + 8  # 16 B, /proc/sys/kernel/random/boot_id
TOTAL_BYTES_OFFSET = BOOT_ID_OFFSET + 16  # u64
MAX_MEMBERS_OFFSET = TOTAL_BYTES_OFFSET + 8  # u32
MAX_BUFFERS_OFFSET = MAX_MEMBERS_OFFSET + 4  # u32
MAX_LEASES_OFFSET = MAX_BUFFERS_OFFSET + 4  # u32, per member
INDEX_SLOTS_OFFSET = MAX_LEASES_OFFSET + 4  # u32, a power of two
SECRET_OFFSET = INDEX_SLOTS_OFFSET + 4  # 32 B, the key of the domain's capabilities
SECRET_BYTES = 32
# owner: the creator, as above. Random, never 0. It tells two blocks of one name apart.
# The names of a block's segments, journals and sockets contain it, and the objects in a
# process remember it.
IDENTITY_OFFSET = SECRET_OFFSET + SECRET_BYTES  # u64
LOCK_INODE_OFFSET = IDENTITY_OFFSET + 8  # u64, of the lock file whose bytes are those of the slots
# u32, 1: all buffers that journals of other blocks vouched for are in the rows here
ADOPTED_OFFSET = LOCK_INODE_OFFSET + 8
# owner: the creator; and a process that withdraws the block, before it clears VERSION.
# It is at this offset in every version of this file. It is the version of the block
# while VERSION is 0, and is never 0 in a block that was whole.
LAYOUT_VERSION_OFFSET = ADOPTED_OFFSET + 4  # u32
# owner: any member, CAS {epoch, slot+1} -> {epoch+1, slot+1}. A stale read costs a
# failed CAS or a connection to a dead socket.
ELECTION_OFFSET = 2 * CACHE_LINE_BYTES  # u64 {epoch:48 | slot+1:16}; slot+1 = 0: none
ELECTION_SLOT, ELECTION_EPOCH = BitField(0, 16), BitField(16, 48)
# owner: the broker, CAS upward to its own epoch. Clients futex-wait on the low half. A
# stale read costs one more wait.
READY_OFFSET = ELECTION_OFFSET + CACHE_LINE_BYTES  # u64, epoch whose socket listens
# owner: the broker, fetch-add. Observers compare two reads; a stale read delays a
# deposition.
HEARTBEAT_OFFSET = READY_OFFSET + CACHE_LINE_BYTES  # u64
# owner: the broker, CAS {epoch:24 | count:40}. A stale read hides rows that the broker
# can still name.
ROWS_READY_OFFSET = HEARTBEAT_OFFSET + CACHE_LINE_BYTES  # u64
ROWS_READY_COUNT, ROWS_READY_EPOCH = BitField(0, 40), BitField(40, 24)
# owner: the broker, CAS; every successor re-stamps the epoch. A stale read lets one
# more buffer be created, or shows half a reason. u64 {epoch:24 | draining:1}: the
# domain creates nothing new
DRAIN_OFFSET = ROWS_READY_OFFSET + CACHE_LINE_BYTES
DRAIN_REASON_WORDS = 31  # x u64 {epoch:24 | text:40} behind it: the reason, for people
DRAIN_ON, DRAIN_TEXT, DRAIN_EPOCH = BitField(0, 1), BitField(0, 40), BitField(40, 24)
# owner: a forked child of any member, once and for all. A stale read hides freed memory
# of a child from one list. u32, 1: processes that are no members may map buffers
FORKED_OFFSET = DRAIN_OFFSET + 8 * (1 + DRAIN_REASON_WORDS)
# owner: the broker, CAS; every successor re-stamps the epoch. Only a successor reads
# it, after it has fenced, so a read is never stale. u64 {epoch:24 | new row+1:20 | old
# row+1:20}: the replacement that the broker has begun and not finished; 0, 0: none. See
# control/replacement.py.
REPLACEMENT_OFFSET = FORKED_OFFSET + 8
REPLACEMENT_OLD, REPLACEMENT_NEW, REPLACEMENT_EPOCH = (
    BitField(0, 20),
    BitField(20, 20),
    BitField(40, 24),
)
# owner: a member that finds no room in VRAM, fetch-add. A stale read costs it half a
# second. SHORTAGE_GROUPS x SHORTAGE_RANKS x u32: how often. See control/shortages.py
SHORTAGES_OFFSET = REPLACEMENT_OFFSET + 8
SHORTAGE_GROUPS, SHORTAGE_RANKS = 16, 4
HEADER_BYTES = PAGE_BYTES
# owner: the broker, fetch-add, then futex wake: a name of this hash has come or gone
# (+1), or has come and is not in the index (+2^16). A stale read costs one more look.
# If the low half runs over into the upper, an opener asks the broker once more. If 2^16
# changes come between a look and the sleep, the word is the same, and the opener sleeps
# for half a second until its next look.
NAME_WAKES = 512  # a power of two
# NAME_WAKES x u32 {changes outside of the index:16 | changes in it:16}
NAME_WAKES_OFFSET = HEADER_BYTES - NAME_WAKES * 4
NAME_WAKE_INDEXED, NAME_WAKE_NOT_INDEXED = BitField(0, 16, 32), BitField(16, 16, 32)

# --- member slot ---------------------------------------------------------------------
MEMBERS_OFFSET = HEADER_BYTES
# owner: the member; once its death is confirmed, the reclaiming member. CAS on the
# exact word. A stale read costs a scan more or less of an area.
MEMBER_STATE_OFFSET = 0  # u64 {generation:32 | unused:24 | state:8}
MEMBER_STATE, MEMBER_GENERATION = BitField(0, 8), BitField(32, 32)
# owner: the member's background thread (its tid); the kernel ORs FUTEX_OWNER_DIED when
# that thread ends. u32, the kernel's FUTEX_WAITERS, FUTEX_OWNER_DIED and FUTEX_TID_MASK
MEMBER_ROBUST_OFFSET = MEMBER_STATE_OFFSET + 8
ROBUST_TID, ROBUST_OWNER_DIED, ROBUST_WAITERS = (
    BitField(0, 30, 32),
    BitField(30, 1, 32),
    BitField(31, 1, 32),
)
# owner: the member, before LIVE (identity) or at any time (flags, leaseHigh). A stale
# leaseHigh misses only leases whose holders still read the row.
MEMBER_FLAGS_OFFSET = MEMBER_ROBUST_OFFSET + 4  # u32, MEMBER_FLAG_*
MEMBER_PID_OFFSET = MEMBER_FLAGS_OFFSET + 4  # u32
MEMBER_UID_OFFSET = MEMBER_PID_OFFSET + 4  # u32
# u64, clock ticks since boot, /proc/<pid>/stat field 22, on the host's clock
MEMBER_START_TIME_OFFSET = MEMBER_UID_OFFSET + 4
MEMBER_PID_NAMESPACE_OFFSET = MEMBER_START_TIME_OFFSET + 8  # u64, inode of /proc/self/ns/pid
MEMBER_NONCE_OFFSET = MEMBER_PID_NAMESPACE_OFFSET + 8  # u64, random, never 0
MEMBER_JOINED_MS_OFFSET = MEMBER_NONCE_OFFSET + 8  # u64, monotonic ms of the host
# u32, lease slots ever used; raised before the slot is
MEMBER_LEASE_HIGH_OFFSET = MEMBER_JOINED_MS_OFFSET + 8
# owner: the member, before LIVE and whenever it measures anew. A stale read costs a
# handover to a member that hands over again. u32, descriptors that it could spend as
# broker; 0: it can not serve now
MEMBER_SPARE_OFFSET = MEMBER_LEASE_HIGH_OFFSET + 4
MEMBER_PROGRAM_OFFSET = 72  # 64 B, UTF-8, zero padded
MEMBER_PROGRAM_BYTES = 64
# owner: the member, before LIVE. A stale read shows a wrong expiry in a list, and
# decides nothing. u64, inode of /proc/self/ns/time, by whose clock the member counts;
# 0: its times mean nothing
MEMBER_TIME_NAMESPACE_OFFSET = MEMBER_PROGRAM_OFFSET + MEMBER_PROGRAM_BYTES
# owner: a member before LIVE, once and for all. A stale read misses the counts of a member
# that is only joining. u32, 1: the pages of the area are there
MEMBER_AREA_OFFSET = MEMBER_TIME_NAMESPACE_OFFSET + 8
MEMBER_BYTES = 256

MEMBER_FREE, MEMBER_CLAIMING, MEMBER_LIVE, MEMBER_DEAD = 0, 1, 2, 3
#: The member stays (`python -m muninn keep`) and is preferred as broker.
MEMBER_FLAG_PREFERRED = 1
#: The member has the listening socket of an endpoint, and may answer there.
MEMBER_FLAG_ANSWERS = 2

# --- name index ----------------------------------------------------------------------
# owner: the broker, CAS. {hash:20 | incarnation:24 | row+1:20}. 0: never used, ends a
# probe. A stale or missing entry costs a question to the broker.
INDEX_ENTRY_BYTES = 8
INDEX_ROW, INDEX_INCARNATION, INDEX_HASH = BitField(0, 20), BitField(20, 24), BitField(44, 20)
INDEX_TOMBSTONE_EPOCH = BitField(20, 44)
# row+1 of an entry that was removed; the other 44 bits are the epoch of the broker that
# removed it
INDEX_TOMBSTONE = INDEX_ROW.top
MAX_INDEX_PROBES = 64

# --- buffer row ----------------------------------------------------------------------
ROW_CHUNK = 256
# owner: the broker, CAS on the exact word; every successor re-stamps the epoch. A stale
# read costs a failed CAS, or an open that is taken back.
ROW_STATE_OFFSET = 0  # u64 {incarnation:24 | epoch:24 | creator slot:12 | state:4}
ROW_STATE, ROW_CREATOR, ROW_EPOCH, ROW_INCARNATION = (
    BitField(0, 4),
    BitField(4, 12),
    BitField(16, 24),
    BitField(40, 24),
)
# owner: the creator while CREATING, no process after that. Published by the CAS to
# LIVE.
ROW_SIZE_OFFSET = ROW_STATE_OFFSET + 8  # u64, bytes of data as the user sees them
ROW_SEGMENT_BYTES_OFFSET = ROW_SIZE_OFFSET + 8  # u64, bytes of the segment or allocation
ROW_CREATED_MS_OFFSET = ROW_SEGMENT_BYTES_OFFSET + 8  # u64, monotonic ms of the host
# u64, monotonic ms of the host at which lifetimeMs ends; 0: never
ROW_DEADLINE_MS_OFFSET = ROW_CREATED_MS_OFFSET + 8
ROW_META_OFFSET_OFFSET = ROW_DEADLINE_MS_OFFSET + 8  # u64, where in the segment the manifest starts
ROW_META_BYTES_OFFSET = ROW_META_OFFSET_OFFSET + 8  # u32, 0: no manifest
ROW_MODE_OFFSET = ROW_META_BYTES_OFFSET + 4  # u8, index into terms.MODES
ROW_ACCESS_OFFSET = ROW_MODE_OFFSET + 1  # u8, index into terms.ACCESSES
ROW_LIFETIME_OFFSET = ROW_ACCESS_OFFSET + 1  # u8, index into terms.LIFETIMES
ROW_KIND_OFFSET = ROW_LIFETIME_OFFSET + 1  # u8, ROW_KIND_*
ROW_GPU_OFFSET = ROW_KIND_OFFSET + 1  # i16, -1: none
ROW_NDIM_OFFSET = ROW_GPU_OFFSET + 2  # u8
ROW_FLAGS_OFFSET = ROW_NDIM_OFFSET + 1  # u8, ROW_FLAG_*
ROW_NAME_LENGTH_OFFSET = ROW_FLAGS_OFFSET + 1  # u8
ROW_TENANT_LENGTH_OFFSET = ROW_NAME_LENGTH_OFFSET + 1  # u8
ROW_DTYPE_LENGTH_OFFSET = ROW_TENANT_LENGTH_OFFSET + 1  # u8
ROW_TRANSPORT_OFFSET = ROW_DTYPE_LENGTH_OFFSET + 1  # u8, index into terms.TRANSPORTS
ROW_SHAPE_OFFSET = 64  # MAX_NDIM x u64
MAX_NDIM = 8
ROW_DTYPE_OFFSET = ROW_SHAPE_OFFSET + MAX_NDIM * 8  # 48 B, numpy's dtype.str
MAX_DTYPE_BYTES = 48
ROW_TENANT_OFFSET = ROW_DTYPE_OFFSET + MAX_DTYPE_BYTES  # 64 B, UTF-8
MAX_TENANT_BYTES = 64
ROW_NAME_OFFSET = ROW_TENANT_OFFSET + MAX_TENANT_BYTES  # 128 B, UTF-8
MAX_NAME_BYTES = 128
# u64, the identity in the segment's name. 0: that of this block; otherwise the buffer
# was adopted
ROW_ORIGIN_OFFSET = ROW_NAME_OFFSET + MAX_NAME_BYTES
# u64, 0: the row is no part of a bundle; otherwise the bundle's own row, its head, and
# which part this is, from 1 on: {head's incarnation:24 | number:20 | head's row+1:20}
ROW_HEAD_OFFSET = ROW_ORIGIN_OFFSET + 8
HEAD_ROW, HEAD_NUMBER, HEAD_INCARNATION = BitField(0, 20), BitField(20, 20), BitField(40, 24)
# owner: the member that holds the owner lock; odd while it writes. Readers futex-wait
# on the low half. A stale read costs one more wait or a retry.
ROW_GENERATION_OFFSET = 448 - CACHE_LINE_BYTES  # u64
# owner: members, CAS. {contended:1 | slot generation:19 | slot+1:12}; 0: free. See
# control/ownerlock.py.
ROW_OWNER_LOCK_OFFSET = ROW_GENERATION_OFFSET + 8  # u32
OWNER_SLOT, OWNER_GENERATION, OWNER_CONTENDED = (
    BitField(0, 12, 32),
    BitField(12, 19, 32),
    BitField(31, 1, 32),
)
OWNER_DEAD = OWNER_SLOT.top  # slot+1 of an owner that died: a slot that no table has
# owner: members, fetch-add. A stale read costs one more wait.
ROW_TICKET_WAKE_OFFSET = ROW_OWNER_LOCK_OFFSET + 4  # u32, changes whenever a ticket completes
ROW_TICKET_NEXT_OFFSET = ROW_TICKET_WAKE_OFFSET + 4  # u64, last ticket issued
# owner: readers, fetch-add that skips 0, when the first read access of a process begins
# and when any ends; a writer that found no reader, CAS to 0. 0: no lease need be looked
# at. Writers futex-wait on it. A stale read costs one more look at the leases.
ROW_READERS_OFFSET = ROW_TICKET_NEXT_OFFSET + 8  # u32
# owner: a waiter for the owner lock, CAS to the lower number; the waiter that takes the
# lock, or that has waited long enough for the successor, CAS to 0. A stale read costs
# the order of two waiters. See cshim/owners.h. u32, number of the waiter for which a
# free owner lock is kept; 0: for none
ROW_SUCCESSOR_OFFSET = ROW_READERS_OFFSET + 4
#: No word of the block, but Python and C count on the same number: how long a thread
#: that finds the owner lock free leaves it to the successor. It is some hundred times
#: as long as a wake-up takes on an idle machine.
SUCCESSOR_NS = 5_000_000
# owner: members, CAS that raises. The buffer is torn if the last writer's ticket was
# poisoned, so a reader compares both words. A stale read is that of a reader that came
# a moment earlier.
ROW_LAST_WRITER_OFFSET = ROW_READERS_OFFSET + 8  # u64, the last ticket of a write access
ROW_TORN_OFFSET = ROW_LAST_WRITER_OFFSET + 8  # u64, the last of them that was poisoned
# owner: a waiter for the owner lock, fetch-add. It wraps: numbers are compared by their
# distance, and of two waiters more than 2^31 arrivals apart the later one goes first.
ROW_ARRIVALS_OFFSET = ROW_TORN_OFFSET + 8  # u32, the number of the last waiter that came
# owner: a member that lends an array to write in place, once and for all. A stale read is
# that of an earlier promotion. u32, 1: bytes may change while the generation stays
ROW_IN_PLACE_OFFSET = ROW_ARRIVALS_OFFSET + 4
# owner: the signalling member, CAS; any member completes a ticket that is completed by
# the device, once the GPU has reached it; the broker poisons the tickets of a dead
# member. {low half of the ticket:32 | slot generation:16 | slot:12 | status:4}
ROW_TICKETS_OFFSET = 448  # TICKET_RING x u64
TICKET_STATUS, TICKET_SLOT, TICKET_GENERATION, TICKET_NUMBER = (
    BitField(0, 4),
    BitField(4, 12),
    BitField(16, 16),
    BitField(32, 32),
)
TICKET_RING = 32
# owner: the creator while CREATING, no process after that. A process that imports
# device memory needs it beside a descriptor, or instead of one. 128 B, as the device
# back-end made it, zero padded
ROW_HANDLE_OFFSET = ROW_TICKETS_OFFSET + TICKET_RING * 8
MAX_HANDLE_BYTES = 128
# owner: the creator while CREATING; after that any member that has the buffer open, a
# store of each word. A word is whole by itself, and is advice: of two members that store
# at once, ranges of both may be there. A stale read costs a prefetch that nobody needs,
# or one that is missing. u64 {until:62 | priority:2}: the monotonic ms of the host until
# which the hints hold, 0: as long as the buffer
ROW_HINTS_OFFSET = ROW_HANDLE_OFFSET + MAX_HANDLE_BYTES
HINT_PRIORITY, HINT_UNTIL = BitField(0, 2), BitField(2, 62)
# MAX_HOT_RANGES x u64 {pages:28 | first page:36}; 0: none. Pages of PAGE_BYTES
ROW_HOT_RANGES_OFFSET = ROW_HINTS_OFFSET + 8
HOT_FIRST, HOT_PAGES = BitField(0, 36), BitField(36, 28)
MAX_HOT_RANGES = 15
ROW_BYTES = ROW_HOT_RANGES_OFFSET + MAX_HOT_RANGES * 8

ROW_FREE, ROW_CREATING, ROW_LIVE, ROW_PROBING, ROW_DYING, ROW_DEAD = 0, 1, 2, 3, 4, 5
#: A newer version has the name: the holders use the buffer, and no process opens it.
ROW_REPLACED = 6
ROW_KIND_ARRAY, ROW_KIND_BUNDLE, ROW_KIND_LOCK, ROW_KIND_PART, ROW_KIND_WINDOW = 0, 1, 2, 3, 4
ROW_FLAG_LAZY, ROW_FLAG_PARTS = 1, 2
#: A ticket promises that work will be over. The ticket of a signal is PENDING, and then
#: DONE; it is POISONED if its member died before. The ticket of a write access is
#: WRITING, and then WRITTEN or TORN. The ticket of a read access is READING, and then
#: READ in any case, because a reader leaves nothing half done. A ticket is completed by
#: the device (BY_DEVICE) if the GPU's word alone says that it is over: nothing on the
#: host can still make it a failure. A ticket whose work is not over has bit 3 set. In
#: such a ticket bit 0 says BY_DEVICE, and bits 2 and 1 are its kind: signal, reader or
#: writer.
TICKET_DONE, TICKET_POISONED, TICKET_READ, TICKET_WRITTEN, TICKET_TORN = 1, 2, 3, 4, 5
TICKET_PENDING, TICKET_PENDING_BY_DEVICE = 8, 9
TICKET_READING = 11
TICKET_WRITING, TICKET_WRITING_BY_DEVICE = 12, 13
TICKET_OPEN_BIT, TICKET_BY_DEVICE_BIT, TICKET_KIND_MASK = 8, 1, 14

# --- fence words ---------------------------------------------------------------------
# owner: the signaller of the slot's pending ticket, by its GPU or its CPU; the broker
# raises those of a dead member. They only grow while the row's buffer lives. They are
# on pages of their own, because GPUs map them: a faulty kernel can overwrite no other
# word there. After a stale read a GPU waits a little longer. TICKET_RING x u64, the
# last ticket of that slot of the ring whose work is over
FENCE_BYTES = TICKET_RING * 8

# --- member area ---------------------------------------------------------------------
# owner: the member, exchange; the broker CASes the revocation. {incarnation:24 | slot
# generation:12 | reason:8 | row+1:20}; 0: not held. The generation keeps a deposed
# broker, which may still clear the leases of a dead member, from clearing those of the
# slot's next member.
LEASE_HOLD_OFFSET = 0  # u64
LEASE_ROW, LEASE_REASON, LEASE_GENERATION, LEASE_INCARNATION = (
    BitField(0, 20),
    BitField(20, 8),
    BitField(28, 12),
    BitField(40, 24),
)
# owner: the member, CAS for `expiry`, fetch-or and fetch-and for `reading`.
# {reading:1 | expiry:63}: the monotonic ms of the host at which
# the lease expires, and whether the holder is inside a read access. A stale expiry
# costs an early or late refusal by the holder itself. A reader sets `reading` before it
# reads the owner lock, and a writer reads `reading` after it has taken the owner lock.
LEASE_EXPIRY_OFFSET = LEASE_HOLD_OFFSET + 8  # u64
LEASE_EXPIRY, LEASE_READING = BitField(0, 63), BitField(63, 1)
LEASE_BYTES = 16
# owner: the member, fetch-add; never cleared. A stale read is a count of a moment ago.
# u64 each, at the end of the area. See control/cells.py.
CELLS_BYTES = PAGE_BYTES

#: A slot or row number is stored plus one. The largest value of the field stands for no
#: slot and no row.
MAX_MEMBERS_LIMIT = OWNER_SLOT.top - 1
MAX_BUFFERS_LIMIT = LEASE_ROW.top - 1
MAX_LEASES_LIMIT = 1 << 16

assert LAYOUT_VERSION_OFFSET + 4 <= ELECTION_OFFSET and IDENTITY_OFFSET % 8 == 0
assert SHORTAGES_OFFSET + 4 * SHORTAGE_GROUPS * SHORTAGE_RANKS <= NAME_WAKES_OFFSET
assert REPLACEMENT_OFFSET % 8 == 0
assert NAME_WAKES & (NAME_WAKES - 1) == 0
assert MEMBER_SPARE_OFFSET % 4 == 0 and MEMBER_SPARE_OFFSET + 4 <= MEMBER_PROGRAM_OFFSET
assert MEMBER_TIME_NAMESPACE_OFFSET % 8 == 0 and MEMBER_AREA_OFFSET + 4 <= MEMBER_BYTES
assert ROW_TRANSPORT_OFFSET < ROW_SHAPE_OFFSET and ROW_ORIGIN_OFFSET % 8 == 0
assert ROW_HEAD_OFFSET + 8 <= ROW_GENERATION_OFFSET
assert ROW_IN_PLACE_OFFSET + 4 <= ROW_TICKETS_OFFSET
assert ROW_BYTES % CACHE_LINE_BYTES == 0 and ROW_CHUNK * ROW_BYTES % PAGE_BYTES == 0
assert ROW_CHUNK * FENCE_BYTES % PAGE_BYTES == 0
assert ROW_TICKET_NEXT_OFFSET % 8 == ROW_LAST_WRITER_OFFSET % 8 == ROW_READERS_OFFSET % 4 == 0
assert MEMBER_START_TIME_OFFSET % 8 == 0
assert (
    ELECTION_OFFSET % CACHE_LINE_BYTES
    == READY_OFFSET % CACHE_LINE_BYTES
    == HEARTBEAT_OFFSET % CACHE_LINE_BYTES
    == 0
)
assert ROW_GENERATION_OFFSET % CACHE_LINE_BYTES == 0 and ROW_HINTS_OFFSET % CACHE_LINE_BYTES == 0
assert (
    ROW_EPOCH.bits == ROWS_READY_EPOCH.bits <= ELECTION_EPOCH.bits
    and ROWS_READY_EPOCH == DRAIN_EPOCH == REPLACEMENT_EPOCH
)
assert ROW_INCARNATION.bits == INDEX_INCARNATION.bits == LEASE_INCARNATION.bits
assert HEAD_INCARNATION.bits == ROW_INCARNATION.bits and HEAD_ROW.bits == LEASE_ROW.bits
assert ROW_CREATOR.bits == OWNER_SLOT.bits == TICKET_SLOT.bits and INDEX_ROW.bits == LEASE_ROW.bits
assert REPLACEMENT_OLD.bits == REPLACEMENT_NEW.bits == LEASE_ROW.bits
