//! Generates the messages of the protocols from the files in `proto`, and what server reflection says of them.
//!
//! No protoc is needed. Three things come out: one Rust file per package; `descriptors.rs` with every file's encoded descriptor, its
//! imports, its services and the names that it declares; and `shapes.rs` with every message and which of its fields hold more than one value.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
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
        // A request is looked up by its name, to see what it holds before it is decoded.
        .enable_type_names()
        .boxed(".kvrpcpb.KvPair.error")
        .compile_fds(set.clone())?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("shapes.rs"), shapes(&set.file))?;
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

/// The table of all messages by their full names: which of their fields are messages, and which are many numbers in one field.
fn shapes(files: &[FileDescriptorProto]) -> String {
    let mut messages = Vec::new();
    for file in files {
        file.message_type.iter().for_each(|message| collect(file.package(), message, &mut messages));
    }
    messages.sort_by(|a, b| a.0.cmp(&b.0));
    let place =
        |name: &str| messages.binary_search_by(|(known, _)| known.as_str().cmp(name.trim_start_matches('.')));
    let mut table = String::from("&[\n");
    for (name, message) in &messages {
        let mut fields = String::new();
        for field in &message.field {
            let repeated = field.label() == Label::Repeated;
            let shape = match field.r#type() {
                Type::Message => format!("Message({})", place(field.type_name()).expect("it is declared")),
                Type::Group => unreachable!("no protocol here has groups"),
                Type::String | Type::Bytes => continue,
                Type::Double | Type::Fixed64 | Type::Sfixed64 if repeated => "Numbers(8)".to_owned(),
                Type::Float | Type::Fixed32 | Type::Sfixed32 if repeated => "Numbers(4)".to_owned(),
                _ if repeated => "Varints".to_owned(),
                _ => continue,
            };
            fields.push_str(&format!("({}, Field::{shape}), ", field.number()));
        }
        table.push_str(&format!("    ({name:?}, Shape(&[{fields}])),\n"));
    }
    table.push_str("]\n");
    table
}

/// Lists a message and those declared inside it, by their full names.
fn collect<'a>(outer: &str, message: &'a DescriptorProto, messages: &mut Vec<(String, &'a DescriptorProto)>) {
    let name = format!("{outer}.{}", message.name());
    message.nested_type.iter().for_each(|inner| collect(&name, inner, messages));
    messages.push((name, message));
}
