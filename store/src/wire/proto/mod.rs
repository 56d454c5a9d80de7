//! The messages of the TiKV and PD protocols that ringkeep speaks, as structs.
//!
//! Generated at build time from the files in `store/proto`, which declare them only as far as they are used: a field that is not
//! declared is skipped when it arrives and absent when we answer, which the encoding allows. One module per protocol package; `convert`
//! joins them to the scheduler's types. [`descriptors`] says what is declared, for reflection and tests.

mod convert;
pub mod descriptors;
pub mod shapes;

/// The code that was generated for a package.
macro_rules! package {
    ($(#[$doc:meta])* $module:ident, $package:literal $(, $item:item)*) => {
        $(#[$doc])*
        pub mod $module {
            #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
            include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
            $($item)*
        }
    };
}

package!(/** Regions, peers, stores. */ metapb, "metapb");
package!(/** Why a store refuses a request. */ errorpb, "errorpb");
package!(/** Requests to a store. */ kvrpcpb, "kvrpcpb");
package!(/** The coprocessor, known and not served. */ coprocessor, "coprocessor");
package!(/** The placement service. */ pdpb, "pdpb");
package!(/** Keyspaces. */ keyspacepb, "keyspacepb");
package!(/** What nodes and operators say to the scheduler. */ ringkeep, "ringkeep");
package!(/** What clients ask of the store below a placement server. */ etcdserverpb, "etcdserverpb");
package!(/** A key of that store. */ mvccpb, "mvccpb");
package!(/** The same, by another name. */ meta_storagepb, "meta_storagepb");
package!(/** The health service. */ health, "grpc.health.v1");
package!(/** Server reflection. */ reflection_v1, "grpc.reflection.v1");
package!(/** Server reflection, as most tools still call it. */ reflection_v1alpha, "grpc.reflection.v1alpha");
package!(
    /** Many commands in one message. */ tikvpb, "tikvpb",
    pub use batch_commands_request::{Request, request::Cmd as Command};,
    pub use batch_commands_response::{Response, response::Cmd as Answer};,
    pub use {BatchCommandsEmptyRequest as EmptyRequest, BatchCommandsEmptyResponse as EmptyResponse};
);
