//! An exchange whose route tries again.
//!
//! Data plane. Whether and when is for [`retry`](crate::retry) to say; the request's body comes from a
//! [`replay`](crate::replay). A response that is tried again for is let go of here, before anything of it went to the
//! client or a filter.

use std::pin::Pin;
use std::time::Duration;

use http_body::Body as _;
use tokio::time::Instant;

use super::{Answered, Exchange, Failed, Upstream};
use crate::body::{Body, RequestBody};
use crate::cluster::Limit;
use crate::pool::ClusterPool;
use crate::replay::Replay;
use crate::reply::Error;
use crate::retry::{self, Cause, Policy, RETRIED, Refusal, Tried, Verdict};
use crate::upstream::Download;

/// What is read of a response that nobody wants, so that its connection can be kept: an error page, and the time of
/// some round trips. A new connection costs no more.
const MAX_DISCARD: u64 = 64 << 10;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the request goes next, and when.
struct Next {
    upstream: Upstream,
    wait: Duration,
}

impl Exchange {
    /// Sends the request as often as the policy wants it.
    pub(super) async fn forward_with(
        &mut self,
        policy: &Policy,
        pool: &ClusterPool,
        body: RequestBody,
    ) -> Result<Body, Error> {
        pool.retries().requested(Instant::now());
        let replay = Replay::of(body, policy.max_body);
        let mut tried = Vec::new();
        let mut body = replay.again();
        let mut upstream = self.pick(pool, &[], None)?;
        loop {
            self.attempts += 1;
            let came = self.attempt(&upstream, pool, &mut body, policy.per_try_timeout).await;
            let next = self.next(policy, pool, &replay, &came, &upstream, &mut tried);
            let Some(next) = next else {
                replay.settle();
                return match came {
                    Ok(answered) => Ok(self.take(upstream, answered)),
                    Err(Failed::Unconnected(error) | Failed::Sent(error)) => Err(error),
                };
            };
            upstream = next.upstream;
            // From now on whoever still has the body for this try reads no more of it.
            body = replay.again();
            if let Ok(answered) = came {
                let_go(answered);
            }
            if !next.wait.is_zero() {
                tokio::time::sleep(next.wait).await;
            }
        }
    }

    /// `None` when what came is the answer.
    fn next(
        &self,
        policy: &Policy,
        pool: &ClusterPool,
        replay: &Replay,
        came: &Result<Answered, Failed>,
        upstream: &Upstream,
        tried: &mut Vec<u64>,
    ) -> Option<Next> {
        let (cause, retry_after) = match came {
            Ok(answered) => {
                let head = &answered.head;
                (Cause::Status(head.status), retry::retry_after(&head.headers))
            }
            Err(Failed::Unconnected(error) | Failed::Sent(error)) => (Cause::of(error.kind)?, None),
        };
        let verdict = policy.decide(
            &Tried {
                cause,
                method: &self.passage.message().as_ref()?.request.method,
                attempts: self.attempts,
                body: replay.copy(),
                retry_after,
                left: self
                    .deadline
                    .map(|deadline| deadline.saturating_duration_since(Instant::now())),
            },
            self.connection.worker.random(),
        );
        let next = match verdict {
            Verdict::Settled => return None,
            Verdict::Refused(refusal) => Err(refusal),
            Verdict::Again(wait) => {
                tried.push(upstream.endpoint().endpoint.id());
                let upstream = self.pick_again(pool, tried, upstream);
                upstream.map(|upstream| Next { upstream, wait })
            }
        };
        let outcome = next.as_ref().map_or_else(|refusal| refusal.as_str(), |_| RETRIED);
        let worker = &self.connection.worker;
        worker.upstream_retry(upstream.endpoint(), cause.as_str(), outcome);
        next.ok()
    }

    /// An endpoint that was not tried; one that was, if there is no other. It takes the place of the last one among the
    /// requests.
    fn pick_again(&self, pool: &ClusterPool, tried: &mut Vec<u64>, last: &Upstream) -> Result<Upstream, Refusal> {
        let running = pool.retries().retry(Instant::now()).inspect_err(|refusal| {
            if *refusal == Refusal::Limit {
                pool.cluster.terms.standing.overflowed(Limit::Retries);
            }
        })?;
        let another = self.pick(pool, tried, Some(&last.turn)).or_else(|_| {
            tried.clear();
            self.pick(pool, tried, Some(&last.turn))
        });
        let another = another.map_err(|_| Refusal::NoEndpoint)?;
        Ok(Upstream {
            _retry: Some(running),
            ..another
        })
    }
}

/// Reads a short response to its end, so that its connection can be kept, and cuts the connection of another one.
/// Nobody waits for it.
fn let_go(answered: Answered) {
    let Answered { call, head, now, .. } = answered;
    let mut download = call.into_download(&head, now);
    let is_short = download.size_hint().lower() <= MAX_DISCARD;
    if !is_short || download.is_end_stream() || matches!(download, Download::Whole(_)) {
        return;
    }
    tokio::task::spawn_local(async move {
        let discard = async {
            let mut read = 0;
            while read <= MAX_DISCARD {
                let frame = std::future::poll_fn(|context| Pin::new(&mut download).poll_frame(context)).await;
                let Some(Ok(frame)) = frame else { return };
                read += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
        };
        // The connection goes either way.
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard).await;
    });
}
