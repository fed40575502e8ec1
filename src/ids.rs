//! Identifiers as cheap-to-clone newtypes. They are opaque: nothing is parsed out of a room ID (room version 12 has no
//! server name in it), and what the homeserver sends is taken as it is.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                Self(Arc::from(value))
            }
        }

        impl From<String> for $name {
            fn from(value: String) -> Self {
                Self(Arc::from(value))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(Self::from)
            }
        }
    };
}

id!(
    /// A Matrix user ID, `@local:server`.
    UserId
);
id!(
    /// A device of one user; unique only together with its user.
    DeviceId
);
id!(
    /// A room ID. Opaque.
    RoomId
);
id!(
    /// An event ID. Opaque.
    EventId
);
id!(
    /// The client-chosen name of one of several parallel connections of a device (MSC3575 `conn_id`); often empty.
    ConnId
);

/// One device of one user: what a poller, a to-device queue and a set of sessions belong to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DeviceKey {
    /// Owner.
    pub user_id: UserId,
    /// Device of that owner.
    pub device_id: DeviceId,
}

impl DeviceKey {
    /// Returns the key of `device_id` of `user_id`.
    pub fn new(user_id: impl Into<UserId>, device_id: impl Into<DeviceId>) -> Self {
        Self {
            user_id: user_id.into(),
            device_id: device_id.into(),
        }
    }
}
