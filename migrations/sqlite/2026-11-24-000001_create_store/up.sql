-- The first form of the store: everything that v2 responses bring, keyed so that IDs are spelled out once.
-- Keys are given out by the single writer, which never reuses one: views refer to events by them.
CREATE TABLE meta (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- One row. High-water marks of everything that is numbered.
CREATE TABLE counters (
    nid INTEGER NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL,
    event BIGINT NOT NULL,
    other BIGINT NOT NULL,
    seq BIGINT NOT NULL
);

CREATE TABLE users (
    nid INTEGER NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL UNIQUE
);

CREATE TABLE devices (
    nid INTEGER NOT NULL PRIMARY KEY,
    user_nid BIGINT NOT NULL REFERENCES users (nid),
    device_id TEXT NOT NULL,
    since TEXT,
    has_synced BOOLEAN NOT NULL,
    filter_version BIGINT NOT NULL,
    one_time_keys TEXT,
    fallback_types TEXT,
    to_device_seq BIGINT NOT NULL,
    device_list_seq BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    UNIQUE (user_nid, device_id)
);

CREATE TABLE tokens (
    hash TEXT NOT NULL PRIMARY KEY,
    device_nid BIGINT NOT NULL REFERENCES devices (nid) ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    sealed BLOB NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX tokens_by_device ON tokens (device_nid);

CREATE TABLE rooms (
    nid INTEGER NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE,
    has_create BOOLEAN NOT NULL,
    name TEXT,
    canonical_alias TEXT,
    avatar_url TEXT,
    room_type TEXT,
    room_version TEXT NOT NULL,
    predecessor TEXT,
    encrypted BOOLEAN NOT NULL,
    replacement TEXT,
    joined_count BIGINT NOT NULL,
    invited_count BIGINT NOT NULL,
    members_complete BOOLEAN NOT NULL
);

-- "ranking" is NULL for events that are only known as state.
CREATE TABLE events (
    nid INTEGER NOT NULL PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    room_nid BIGINT NOT NULL REFERENCES rooms (nid),
    ranking BIGINT,
    gap_before BOOLEAN NOT NULL,
    prev_batch TEXT,
    event_type TEXT NOT NULL,
    state_key TEXT,
    sender TEXT NOT NULL,
    origin_server_ts BIGINT NOT NULL,
    redacted BOOLEAN NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX events_by_ranking ON events (room_nid, ranking);

-- Entries with the range of positions in which they were current; until_pos is 9223372036854775807 while they are.
CREATE TABLE state (
    room_nid BIGINT NOT NULL REFERENCES rooms (nid),
    event_type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    until_pos BIGINT NOT NULL,
    from_pos BIGINT NOT NULL,
    event_nid BIGINT NOT NULL REFERENCES events (nid),
    ended_ms BIGINT NOT NULL,
    PRIMARY KEY (room_nid, event_type, state_key, until_pos)
) WITHOUT ROWID;
CREATE INDEX state_by_event ON state (event_nid);

CREATE TABLE user_rooms (
    user_nid BIGINT NOT NULL REFERENCES users (nid),
    room_nid BIGINT NOT NULL REFERENCES rooms (nid),
    membership TEXT NOT NULL,
    notification_count BIGINT NOT NULL,
    highlight_count BIGINT NOT NULL,
    heroes TEXT NOT NULL,
    tags TEXT NOT NULL,
    recency BIGINT NOT NULL,
    joined_ts BIGINT NOT NULL,
    joined_pos BIGINT NOT NULL,
    gap_pending BOOLEAN NOT NULL,
    stripped BLOB,
    changed_pos BIGINT NOT NULL,
    timeline BLOB NOT NULL,
    PRIMARY KEY (user_nid, room_nid)
) WITHOUT ROWID;
CREATE INDEX user_rooms_by_room ON user_rooms (room_nid);

-- room_nid is 0 for global account data.
CREATE TABLE account_data (
    user_nid BIGINT NOT NULL REFERENCES users (nid),
    room_nid BIGINT NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (user_nid, room_nid, kind)
) WITHOUT ROWID;

-- thread is '' for unthreaded receipts.
CREATE TABLE receipts (
    room_nid BIGINT NOT NULL REFERENCES rooms (nid),
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    thread TEXT NOT NULL,
    event_id TEXT NOT NULL,
    ts BIGINT NOT NULL,
    PRIMARY KEY (room_nid, user_id, kind, thread)
) WITHOUT ROWID;
CREATE INDEX receipts_by_event ON receipts (room_nid, event_id);

CREATE TABLE to_device (
    device_nid BIGINT NOT NULL REFERENCES devices (nid),
    seq BIGINT NOT NULL,
    request_key TEXT,
    body BLOB NOT NULL,
    PRIMARY KEY (device_nid, seq)
) WITHOUT ROWID;
CREATE INDEX to_device_by_request ON to_device (device_nid, request_key);

CREATE TABLE device_lists (
    device_nid BIGINT NOT NULL REFERENCES devices (nid),
    user_id TEXT NOT NULL,
    gone BOOLEAN NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (device_nid, user_id)
) WITHOUT ROWID;
CREATE INDEX device_lists_by_seq ON device_lists (device_nid, seq);

CREATE TABLE transaction_ids (
    device_nid BIGINT NOT NULL REFERENCES devices (nid),
    event_nid BIGINT NOT NULL,
    transaction_id TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (device_nid, event_nid)
) WITHOUT ROWID;
CREATE INDEX transaction_ids_by_age ON transaction_ids (created_ms);

-- Redactions whose target has not been seen yet.
CREATE TABLE pending_redactions (
    room_nid BIGINT NOT NULL REFERENCES rooms (nid),
    target TEXT NOT NULL,
    redaction_nid BIGINT NOT NULL,
    PRIMARY KEY (room_nid, target)
) WITHOUT ROWID;
