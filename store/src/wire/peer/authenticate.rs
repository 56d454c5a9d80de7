//! How two nodes prove to each other that they have the cluster's secret, at the beginning of any connection between them.
//!
//! ```text
//! connecting side                                 accepting side
//! [purpose, 8 bytes] [Challenge: nonce] ──►
//!                                         ◄──     [Challenge: nonce]   or [Refused: why]
//! [Proof: one for each secret]            ──►
//!                                         ◄──     [Proof: by the secret that both have]   or [Refused: why]
//! ```
//! It stands before everything else that is said: before the introduction of two stores ([`super::open`], [`super::inbound`]) and before
//! HTTP/2 on the PD port (`wire/pd/members.rs`). What is proved and what that is worth is in [`crate::secret`].
//!
//! Invariants: the connecting side proves first, so whoever connects without a secret is given nothing that was made with it; nothing is
//! drawn where no secret is set; a side that has a secret goes on only after the other has proved one.

use std::future::poll_fn;
use std::time::Duration;

use engine::rt::{Rt, Stream};

use super::frame::{self, Decoder, FrameKind};
use super::hello::Rejection;
use super::link::LinkError;
use super::open::{PREFACE_BYTES, read_frame};
use crate::plant::{Bug, planted};
use crate::secret::{ClusterSecret, Exchange, Nonce, Side, Unproven};

/// How long a peer that is refused may take to hear the reason, and what is read of it meanwhile, bytes.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
const REFUSED_BYTES_MAX: usize = 2 << 20;

/// Begins a connection for `purpose` to the store `meant`, 0 for any member, and proves the secret to whoever accepts it, who has to prove it,
/// too.
///
/// # Errors
/// Why there is no connection; [`Rejection::Unproven`] if the other side has another secret.
pub(in crate::wire) async fn prove(
    rt: &Rt,
    stream: &mut Stream,
    decoder: &mut Decoder,
    (secret, purpose, meant): (&ClusterSecret, [u8; PREFACE_BYTES], u64),
) -> Result<(), LinkError> {
    let connecting = draw(rt, secret);
    let mut begin = purpose.to_vec();
    push(&mut begin, FrameKind::Challenge, &connecting);
    stream.write_all(&begin).await?;
    let accepting = nonce(&hear(stream, decoder, FrameKind::Challenge).await?)?;
    let exchange = Exchange { purpose, meant, connecting, accepting };
    let mut proofs = Vec::new();
    push(&mut proofs, FrameKind::Proof, &secret.proofs(Side::Connecting, &exchange).concat());
    stream.write_all(&proofs).await?;
    let proof = hear(stream, decoder, FrameKind::Proof).await?;
    match secret.shared(Side::Accepting, &exchange, &proof) {
        Some(_) => Ok(()),
        None => Err(Rejection::Unproven(Unproven::Wrong).into()),
    }
}

/// Has the connecting side prove the secret, whose `challenge` was read, to the store `here` (0 for any member), and proves it in return.
///
/// # Errors
/// Why not. Who is [rejected](LinkError::Rejected) has not heard why.
pub(in crate::wire) async fn demand(
    rt: &Rt,
    stream: &mut Stream,
    decoder: &mut Decoder,
    (secret, purpose, here): (&ClusterSecret, [u8; PREFACE_BYTES], u64),
    challenge: &[u8],
) -> Result<(), LinkError> {
    let (connecting, accepting) = (nonce(challenge)?, draw(rt, secret));
    let exchange = Exchange { purpose, meant: here, connecting, accepting };
    let mut answer = Vec::new();
    push(&mut answer, FrameKind::Challenge, &accepting);
    stream.write_all(&answer).await?;
    let proofs = hear(stream, decoder, FrameKind::Proof).await?;
    let shared = secret.shared(Side::Connecting, &exchange, &proofs);
    let shared = if planted(Bug::ProofNotChecked) { shared.or(Some(*secret)) } else { shared };
    let shared = shared.ok_or(Rejection::Unproven(Unproven::Wrong))?;
    let mut proof = Vec::new();
    push(&mut proof, FrameKind::Proof, &shared.proofs(Side::Accepting, &exchange).concat());
    stream.write_all(&proof).await?;
    Ok(())
}

/// Says why a connection is refused. What has come meanwhile is read up to a bound, or closing would take the reason away.
pub(in crate::wire) async fn refuse(rt: &Rt, stream: &mut Stream, rejection: &Rejection) {
    let mut bytes = Vec::new();
    push(&mut bytes, FrameKind::Refused, rejection.to_string().as_bytes());
    let say = async {
        stream.write_all(&bytes).await?;
        poll_fn(|cx| stream.poll_shutdown(cx)).await?;
        let (mut unread, mut left) = ([0; 4096], REFUSED_BYTES_MAX);
        while left > 0 {
            match stream.read(&mut unread).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        Ok::<(), std::io::Error>(())
    };
    if let Some(Err(error)) = rt.timeout(REFUSAL_MAX, say).await {
        tracing::debug!(%error, "a peer that is refused does not hear the reason");
    }
}

fn draw(rt: &Rt, secret: &ClusterSecret) -> Nonce {
    if planted(Bug::NonceKept) {
        return secret.nonce([0; 2]);
    }
    secret.nonce([rt.random(), rt.random()])
}

fn nonce(payload: &[u8]) -> Result<Nonce, Rejection> {
    payload.try_into().map_err(|_| Rejection::NotAHello)
}

fn push(bytes: &mut Vec<u8>, kind: FrameKind, payload: &[u8]) {
    frame::push(bytes, kind, |mut out| {
        out.extend_from_slice(payload);
        out
    });
}

/// The payload of the next frame, which has to be of this kind, or says why the other side refuses.
async fn hear(stream: &mut Stream, decoder: &mut Decoder, wanted: FrameKind) -> Result<Vec<u8>, LinkError> {
    match read_frame(stream, decoder).await? {
        (kind, payload) if kind == wanted => Ok(payload),
        (FrameKind::Refused, reason) => {
            Err(LinkError::Refused(String::from_utf8_lossy(&reason).into_owned()))
        }
        (kind, _) => Err(LinkError::Unexpected(kind)),
    }
}
