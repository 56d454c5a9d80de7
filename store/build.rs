//! Generates the messages of the protocols from the files in `proto`, and what server reflection says of them.
//!
//! No protoc is needed. Two things come out: one Rust file per package, and `descriptors.rs` with every file's encoded descriptor, its
//! imports, its services and the names that it declares.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto};

const FOLDER: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={FOLDER}");
    let mut files: Vec<String> = Vec::new();
    for entry in fs::read_dir(FOLDER)? {
        let name =
            entry?.file_name().into_string().map_err(|name| format!("{FOLDER}/{name:?} is not UTF-8"))?;
        files.push(name);
    }
    files.sort();
    let mut set = protox::compile(&files, [FOLDER])?;
    prost_build::Config::new()
        // A key or a value stays a slice of the buffer that it arrived in.
        .bytes(["."])
        .boxed(".kvrpcpb.KvPair.error")
        .compile_fds(set.clone())?;
    let mut table = String::from("&[\n");
    for file in &mut set.file {
        // Comments are for those who read the files.
        file.source_code_info = None;
        describe(file, &mut table)?;
    }
    table.push_str("]\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("descriptors.rs"), table)?;
    Ok(())
}

/// Writes one file as a row of the table.
fn describe(file: &FileDescriptorProto, table: &mut String) -> Result<(), Box<dyn Error>> {
    let mut symbols = Vec::new();
    let mut services = Vec::new();
    for message in &file.message_type {
        declare(file.package(), message, &mut symbols);
    }
    for named in &file.enum_type {
        symbols.push(format!("{}.{}", file.package(), named.name()));
    }
    for service in &file.service {
        let name = format!("{}.{}", file.package(), service.name());
        symbols.extend(service.method.iter().map(|method| format!("{name}.{}", method.name())));
        symbols.push(name.clone());
        services.push(name);
    }
    symbols.sort();
    writeln!(
        table,
        "    File {{ name: {:?}, imports: &{:?}, services: &{services:?}, symbols: &{symbols:?}, encoded: &{:?} }},",
        file.name(),
        file.dependency,
        file.encode_to_vec(),
    )?;
    Ok(())
}

/// Lists a message and what is declared inside it.
fn declare(outer: &str, message: &DescriptorProto, symbols: &mut Vec<String>) {
    let name = format!("{outer}.{}", message.name());
    symbols.extend(message.enum_type.iter().map(|named| format!("{name}.{}", named.name())));
    for inner in &message.nested_type {
        declare(&name, inner, symbols);
    }
    symbols.push(name);
}
