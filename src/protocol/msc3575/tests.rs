//! Connections as clients meet them.

mod devices;
mod lists;
mod rooms;
mod traces;

use serde_json::{Value, json};

use super::{Connection, Limits, Query, Request};
use crate::ids::ConnId;
use crate::model::change::Changed;
use crate::protocol::fixtures::World;
use crate::protocol::{Accepted, Acknowledgement, Protocol, Refusal};

/// A client with its connection, and the world it asks about.
struct Client {
    world: World,
    connection: Connection,
    pos: Option<String>,
    acknowledged: Vec<Acknowledgement>,
    body: Vec<u8>,
    processed: bool,
}

impl Client {
    fn new(world: World) -> Self {
        let (device, conn_id) = (World::device(), ConnId::from(""));
        Self {
            connection: Connection::new(device, conn_id, "n0nce".into(), "epoch".into(), Limits::default()),
            world,
            pos: None,
            acknowledged: Vec::new(),
            body: Vec::new(),
            processed: false,
        }
    }

    /// Sends a request at the given position while the changes are queued.
    fn ask(&mut self, pos: Option<&str>, body: &Value, queued: &[Changed]) -> Result<Value, Refusal> {
        let query = Query {
            pos: pos.map(str::to_owned),
            timeout: None,
        };
        let request = Request::parse(body.to_string().as_bytes(), query)?;
        let answer = match self.connection.accept(request, &self.world.view)? {
            Accepted::Replay { answer, .. } => {
                self.processed = false;
                answer
            }
            Accepted::Process { drain, .. } => {
                self.processed = true;
                if drain {
                    queued.iter().for_each(|changed| self.connection.apply(changed));
                }
                self.load();
                self.connection.render()
            }
        };
        self.body = answer.body.to_vec();
        let value: Value = serde_json::from_slice(&answer.body).unwrap();
        self.pos = Some(value["pos"].as_str().unwrap().to_owned());
        Ok(value)
    }

    fn load(&mut self) {
        self.acknowledged.extend(self.connection.acknowledgements());
        let plan = self.connection.plan();
        let loaded = self.world.load(&plan);
        self.connection.absorb(loaded);
        assert!(self.connection.plan().is_empty(), "one load brings everything");
    }

    /// Goes on from the last position.
    fn next(&mut self, body: &Value, queued: &[Changed]) -> Value {
        let pos = self.pos.clone();
        self.ask(pos.as_deref(), body, queued).unwrap()
    }

    fn live(&mut self, changed: &Changed) -> Value {
        self.next(&json!({}), std::slice::from_ref(changed))
    }
}

/// A list named `a` with one window.
fn window(start: usize, end: usize) -> Value {
    json!({"lists": {"a": {"ranges": [[start, end]], "timeline_limit": 5}}})
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn ids(events: &Value) -> Vec<&str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}
