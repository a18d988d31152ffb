//! Compiles the protos with `protox`, so that a build needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from("proto");
    let files = [
        "ringfort/v1/kv.proto",
        "ringfort/v1/admin.proto",
        "ringfort/peer/v1/peer.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("ringfort.bin");
    fs::write(out, prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".")
        // In order, so that equal messages are equal bytes.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
