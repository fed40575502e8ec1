-- Takes everything away, the referring tables first.
DROP TABLE pending_redactions;
DROP TABLE transaction_ids;
DROP TABLE device_lists;
DROP TABLE to_device;
DROP TABLE receipts;
DROP TABLE account_data;
DROP TABLE user_rooms;
DROP TABLE state;
DROP TABLE events;
DROP TABLE rooms;
DROP TABLE tokens;
DROP TABLE devices;
DROP TABLE users;
DROP TABLE counters;
DROP TABLE meta;
