//! What the protocol files declare, by file: enough to answer server reflection without decoding a descriptor.

/// One protocol file.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its name, for example `pdpb.proto`.
    pub name: &'static str,
    /// The names of the files that it imports.
    pub imports: &'static [&'static str],
    /// Full names of its services.
    pub services: &'static [&'static str],
    /// Full names of its messages, enumerations, services and methods, sorted.
    pub symbols: &'static [&'static str],
    /// Its `google.protobuf.FileDescriptorProto`, encoded.
    pub encoded: &'static [u8],
}

/// All files; what a file imports comes before it.
pub static FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/descriptors.rs"));

/// The file with this name.
pub fn by_name(name: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.name == name)
}

/// The file that declares this message, enumeration, service or method, by its full name.
pub fn by_symbol(symbol: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.symbols.binary_search(&symbol).is_ok())
}
