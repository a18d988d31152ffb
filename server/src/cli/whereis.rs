//! `ringfort where`.

use serde_json::json;

use super::{
    Cli,
    client::Reach,
    exit::{CliError, Exit},
    key::KeyArg,
    out::Out,
    runtime,
};

/// `ringfort where`: on which nodes a key lives, whether it exists or not.
#[derive(Debug, clap::Args)]
pub struct Where {
    /// The key.
    #[command(flatten)]
    key: KeyArg,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Prints token, partition, owners in preference order, and fallbacks.
///
/// # Errors
/// As the client's, by exit code.
pub fn run(args: &Where, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    let key = args.key.bytes()?;
    runtime()?.block_on(async {
        let client = args.reach.client(cli, &args.key.namespace)?;
        let place = client.where_is(key).await?;
        let token = format!("{:016x}", place.token);
        if out.json {
            out.value(&json!({
                "token": token,
                "partition": place.partition,
                "owners": place.owners,
                "fallbacks": place.fallbacks,
            }))?;
        } else {
            out.table(&format!(
                "token      {token}\npartition  {}\nowners     {}\nfallbacks  {}\n",
                place.partition,
                place.owners.join(" "),
                place.fallbacks.join(" "),
            ))?;
        }
        Ok(Exit::Done)
    })
}
