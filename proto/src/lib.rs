//! Muster's wire and log formats, generated from the `.proto` files beside this folder.
//!
//! No logic: `coordinator/src/convert` and its sisters turn these into the model and back.

/// All files as one encoded `FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

macro_rules! package {
    ($name:ident, $file:literal) => {
        pub mod $name {
            pub mod v1 {
                #![allow(clippy::all, missing_docs, reason = "generated code")]
                include!(concat!(env!("OUT_DIR"), "/", $file));
            }
        }
    };
}

package!(types, "muster.types.v1.rs");
package!(channel, "muster.channel.v1.rs");
package!(scheduler, "muster.scheduler.v1.rs");
package!(operator, "muster.operator.v1.rs");
package!(agent, "muster.agent.v1.rs");
package!(log, "muster.log.v1.rs");
package!(raft, "muster.raft.v1.rs");
package!(join, "muster.join.v1.rs");
package!(members, "muster.members.v1.rs");
package!(checkpoint, "muster.checkpoint.v1.rs");
