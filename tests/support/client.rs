//! A client of the MSC3575 API, and of a homeserver's own.

use std::time::Duration;

use serde_json::{Value, json};

#[derive(Clone)]
pub struct Client {
    http: awc::Client,
    pub base: String,
    pub token: String,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
}

impl Reply {
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }
}

impl Client {
    pub fn new(base: &str, token: &str) -> Self {
        Self {
            http: awc::Client::builder()
                .connector(awc::Connector::new().limit(0))
                .timeout(Duration::from_secs(150))
                .finish(),
            base: base.to_owned(),
            token: token.to_owned(),
        }
    }

    pub async fn request(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let method: awc::http::Method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        let sent = match body {
            Some(body) => request.send_json(&body).await,
            None => request.send().await,
        };
        let mut response = sent.unwrap();
        let status = response.status().as_u16();
        let bytes = response.body().limit(256 << 20).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        Reply { status, body }
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.request("POST", path, Some(body)).await
    }

    /// One MSC3575 request.
    pub async fn sync(&self, pos: Option<&str>, timeout_ms: u64, body: Value) -> Reply {
        let mut path = format!("/_matrix/client/unstable/org.matrix.msc3575/sync?timeout={timeout_ms}");
        if let Some(pos) = pos {
            path.push_str("&pos=");
            path.push_str(pos);
        }
        self.post(&path, body).await
    }
}

/// Percent-encodes one path segment.
pub fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes())
        .collect::<String>()
        .replace('+', "%20")
}
