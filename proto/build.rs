//! Compiles every `.proto` file under `proto/` without protoc.

use std::{env, fs, io, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files = Vec::new();
    for package in fs::read_dir("proto/muster")?.collect::<io::Result<Vec<_>>>()? {
        for version in fs::read_dir(package.path())?.collect::<io::Result<Vec<_>>>()? {
            for file in fs::read_dir(version.path())?.collect::<io::Result<Vec<_>>>()? {
                files.push(file.path());
            }
        }
    }
    // The order decides the order of the generated code.
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Maps are ordered, so that the same message is always the same bytes.
    tonic_prost_build::configure().btree_map(".").bytes(".").compile_fds(descriptors)?;
    Ok(())
}
