//! The messages of the TiKV and PD protocols that ringkeep speaks, as structs.
//!
//! Written by hand from the protocols' field numbers and types, and only as far as they are used: a field that is not listed is
//! skipped when it arrives and absent when we answer, which the encoding allows. One file per protocol package; a message is named
//! as the protocol names it, except that messages of equal shape share one struct.

#![expect(missing_docs, reason = "the fields are the protocol's, and its words are their documentation")]

mod convert;
pub mod errorpb;
pub mod etcd;
pub mod health;
pub mod kvrpcpb;
pub mod metapb;
pub mod pdpb;
pub mod tikvpb;
