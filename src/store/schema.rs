//! The tables as diesel sees them; the same for both dialects. Columns are described in `migrations`.

diesel::table! {
    meta (name) {
        name -> Text,
        value -> Text,
    }
}

diesel::table! {
    counters (nid) {
        nid -> BigInt,
        position -> BigInt,
        event -> BigInt,
        other -> BigInt,
        seq -> BigInt,
    }
}

diesel::table! {
    users (nid) {
        nid -> BigInt,
        user_id -> Text,
    }
}

diesel::table! {
    devices (nid) {
        nid -> BigInt,
        user_nid -> BigInt,
        device_id -> Text,
        since -> Nullable<Text>,
        has_synced -> Bool,
        filter_version -> BigInt,
        one_time_keys -> Nullable<Text>,
        fallback_types -> Nullable<Text>,
        to_device_seq -> BigInt,
        device_list_seq -> BigInt,
        last_seen -> BigInt,
    }
}

diesel::table! {
    tokens (hash) {
        hash -> Text,
        device_nid -> BigInt,
        key_id -> Text,
        sealed -> Binary,
        created_ms -> BigInt,
    }
}

diesel::table! {
    rooms (nid) {
        nid -> BigInt,
        room_id -> Text,
        has_create -> Bool,
        name -> Nullable<Text>,
        canonical_alias -> Nullable<Text>,
        avatar_url -> Nullable<Text>,
        room_type -> Nullable<Text>,
        room_version -> Text,
        predecessor -> Nullable<Text>,
        encrypted -> Bool,
        replacement -> Nullable<Text>,
        joined_count -> BigInt,
        invited_count -> BigInt,
        members_complete -> Bool,
    }
}

diesel::table! {
    events (nid) {
        nid -> BigInt,
        event_id -> Text,
        room_nid -> BigInt,
        ranking -> Nullable<BigInt>,
        gap_before -> Bool,
        prev_batch -> Nullable<Text>,
        event_type -> Text,
        state_key -> Nullable<Text>,
        sender -> Text,
        origin_server_ts -> BigInt,
        redacted -> Bool,
        body -> Binary,
    }
}

diesel::table! {
    state (room_nid, event_type, state_key, until_pos) {
        room_nid -> BigInt,
        event_type -> Text,
        state_key -> Text,
        until_pos -> BigInt,
        from_pos -> BigInt,
        event_nid -> BigInt,
        ended_ms -> BigInt,
    }
}

diesel::table! {
    user_rooms (user_nid, room_nid) {
        user_nid -> BigInt,
        room_nid -> BigInt,
        membership -> Text,
        notification_count -> BigInt,
        highlight_count -> BigInt,
        heroes -> Text,
        tags -> Text,
        recency -> BigInt,
        joined_ts -> BigInt,
        joined_pos -> BigInt,
        gap_pending -> Bool,
        stripped -> Nullable<Binary>,
        changed_pos -> BigInt,
        timeline -> Binary,
    }
}

diesel::table! {
    account_data (user_nid, room_nid, kind) {
        user_nid -> BigInt,
        room_nid -> BigInt,
        kind -> Text,
        body -> Binary,
    }
}

diesel::table! {
    receipts (room_nid, user_id, kind, thread) {
        room_nid -> BigInt,
        user_id -> Text,
        kind -> Text,
        thread -> Text,
        event_id -> Text,
        ts -> BigInt,
    }
}

diesel::table! {
    to_device (device_nid, seq) {
        device_nid -> BigInt,
        seq -> BigInt,
        request_key -> Nullable<Text>,
        body -> Binary,
    }
}

diesel::table! {
    device_lists (device_nid, user_id) {
        device_nid -> BigInt,
        user_id -> Text,
        gone -> Bool,
        seq -> BigInt,
    }
}

diesel::table! {
    transaction_ids (device_nid, event_nid) {
        device_nid -> BigInt,
        event_nid -> BigInt,
        transaction_id -> Text,
        created_ms -> BigInt,
    }
}

diesel::table! {
    pending_redactions (room_nid, target) {
        room_nid -> BigInt,
        target -> Text,
        redaction_nid -> BigInt,
    }
}

diesel::joinable!(devices -> users (user_nid));
diesel::joinable!(tokens -> devices (device_nid));
diesel::joinable!(user_rooms -> rooms (room_nid));
diesel::joinable!(state -> events (event_nid));
diesel::allow_tables_to_appear_in_same_query!(
    users,
    devices,
    tokens,
    rooms,
    user_rooms,
    events,
    state,
    to_device,
    transaction_ids,
);
