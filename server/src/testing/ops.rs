//! Requests and what is expected of their answers, in few words.

use std::time::Duration;

use bytes::Bytes;
use ringfort_proto::{Failure, v1, v1::operation::Kind, v1::operation_result::Kind as Answer};

pub use super::node::{CLUSTER, history, outcome};

/// The key `key` in the default namespace.
pub fn key(key: &str) -> Option<v1::Key> {
    Some(v1::Key {
        namespace: String::new(),
        key: Bytes::copy_from_slice(key.as_bytes()),
    })
}

/// A put, to be changed as a test needs.
pub fn put_request(k: &str, value: &str) -> v1::PutRequest {
    v1::PutRequest {
        key: key(k),
        value: Bytes::copy_from_slice(value.as_bytes()),
        options: Some(v1::WriteOptions::default()),
        ..v1::PutRequest::default()
    }
}

/// A blind put.
pub fn put(k: &str, value: &str) -> Kind {
    Kind::Put(put_request(k, value))
}

/// A put with these options.
pub fn put_with(k: &str, value: &str, options: v1::WriteOptions) -> Kind {
    Kind::Put(v1::PutRequest {
        options: Some(options),
        ..put_request(k, value)
    })
}

/// A put that replaces what `context` covers.
pub fn put_over(k: &str, value: &str, context: &Bytes) -> Kind {
    Kind::Put(v1::PutRequest {
        context: context.clone(),
        ..put_request(k, value)
    })
}

/// Options that ask for `w` copies.
pub fn w(w: u32) -> v1::WriteOptions {
    v1::WriteOptions {
        w: Some(w),
        ..v1::WriteOptions::default()
    }
}

/// Options with a request id.
pub fn request(client: u64, sequence: u64) -> v1::WriteOptions {
    v1::WriteOptions {
        request_id: Some(v1::RequestId { client, sequence }),
        ..v1::WriteOptions::default()
    }
}

/// A get.
pub fn get(k: &str) -> Kind {
    Kind::Get(v1::GetRequest {
        key: key(k),
        options: None,
        ..v1::GetRequest::default()
    })
}

/// A get of `r` copies.
pub fn get_r(k: &str, r: u32) -> Kind {
    let options = Some(v1::ReadOptions {
        r: Some(r),
        ..v1::ReadOptions::default()
    });
    Kind::Get(v1::GetRequest {
        key: key(k),
        options,
        ..v1::GetRequest::default()
    })
}

/// A delete.
pub fn delete(k: &str, context: &Bytes) -> Kind {
    Kind::Delete(v1::DeleteRequest {
        key: key(k),
        context: context.clone(),
        options: None,
        ..v1::DeleteRequest::default()
    })
}

/// The answer of a put that must have gone well.
pub fn put_ok(answer: Result<Answer, Failure>) -> v1::PutResponse {
    match answer {
        Ok(Answer::Put(put)) => put,
        other => panic!("a put went wrong: {other:?}"),
    }
}

/// The answer of a get that must have gone well.
pub fn get_ok(answer: Result<Answer, Failure>) -> v1::GetResponse {
    match answer {
        Ok(Answer::Get(get)) => get,
        other => panic!("a get went wrong: {other:?}"),
    }
}

/// The values of a get, sorted.
pub fn values(answer: Result<Answer, Failure>) -> Vec<String> {
    let siblings = get_ok(answer).siblings;
    let mut values: Vec<_> = siblings
        .iter()
        .map(|s| String::from_utf8_lossy(&s.value).into_owned())
        .collect();
    values.sort();
    values
}

/// Asks until `done`; gives up after 30 s, so that a test fails and does not hang.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
    assert!(waited.is_ok(), "never came true: {what}");
}
