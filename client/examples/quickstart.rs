//! The whole data model in one minute. Start a cluster with `ringfort dev` first, then
//! `cargo run -p ringfort-client --example quickstart [ENDPOINT]`.

use std::env;

use bytes::Bytes;
use futures::StreamExt;
use ringfort_client::{Change, Client, DEFAULT_ENDPOINT, Error, Mutation};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoint = env::args()
        .nth(1)
        .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    let client = Client::builder()
        .endpoints([endpoint])
        .namespace("quickstart")
        .build()?;

    // A write is acknowledged when W nodes have it on stable storage.
    let written = client.put("greeting", "hello").await?;
    println!(
        "written: {} copies are durable",
        written.evidence.copies_durable
    );

    // A read tells the value and the context, with which a write replaces what was read.
    let read = client.get("greeting").await?;
    let context = read.context().cloned();
    println!("read: {:?}", read.one()?);
    if let Some(context) = context {
        client
            .put("greeting", "hello, world")
            .context(context)
            .await?;
    }

    // Writes that do not know of each other are both kept, as siblings, and merged by whoever knows how.
    client.put("cart", "apple").await?;
    client.put("cart", "pear").await?;
    println!("siblings: {}", client.get("cart").await?.siblings().len());
    client
        .read_modify_write("cart", |current| {
            let mut items: Vec<&[u8]> = current
                .iter()
                .flat_map(|sibling| sibling.value.split(|&b| b == b','))
                .collect();
            items.sort_unstable();
            items.dedup();
            Change::Put(Bytes::from(items.join(&b","[..])))
        })
        .await?;
    println!("merged: {:?}", client.get("cart").await?.one()?);

    // Many at once are pipelined: one stream per node, batches by themselves.
    let keys: Vec<String> = (0..1000).map(|i| format!("user:{i}")).collect();
    let writes = keys
        .iter()
        .map(|key| Mutation::put(key, format!("data of {key}")));
    let failed = client
        .batch_write(writes)
        .await
        .into_iter()
        .filter(Result::is_err)
        .count();
    let found = client
        .batch_get(&keys)
        .await
        .into_iter()
        .flatten()
        .filter(|read| read.is_found())
        .count();
    println!("batch: {failed} failed, {found} found");

    let scanned = client
        .scan()
        .keys_only()
        .filter(|entry| std::future::ready(entry.is_ok()))
        .count()
        .await;
    println!("scan: {scanned} keys");

    // Leaves nothing behind, so that it can run again.
    let mut entries = client.scan();
    while let Some(entry) = entries.next().await {
        client.delete(&entry?.key).await?;
    }
    Ok(())
}
