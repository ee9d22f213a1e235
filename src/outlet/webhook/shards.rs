//! Which webhooks this process delivers: they are dealt to shards by their ids, and each shard is leased work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::Shared;
use crate::journal::Lease;
use crate::runtime::Tasks;

/// As many processes can share the work. Processes of all versions must agree on this number.
const COUNT: usize = 16;

/// The shards that this process holds.
#[derive(Default)]
pub(super) struct Shards {
    held: Mutex<[Option<Lease>; COUNT]>,
    have_changed: AtomicBool,
}

impl Shards {
    /// Under which a webhook is delivered here; nothing if another process does.
    pub(super) fn lease(&self, webhook: &str) -> Option<Lease> {
        let held = self.held.lock().expect("nothing panics while it holds this lock");
        held[shard(webhook)].clone().filter(|lease| !lease.lost().is_cancelled())
    }

    /// All of them.
    pub(super) fn leases(&self) -> Vec<Lease> {
        let held = self.held.lock().expect("nothing panics while it holds this lock");
        held.iter().flatten().cloned().collect()
    }

    /// Whether there are others than at the last call.
    pub(super) fn take_change(&self) -> bool {
        self.have_changed.swap(false, Ordering::AcqRel)
    }

    fn set(&self, shard: usize, lease: Option<Lease>) {
        self.held.lock().expect("nothing panics while it holds this lock")[shard] = lease;
        self.have_changed.store(true, Ordering::Release);
    }
}

/// FNV-1a, which is the same everywhere and for ever.
fn shard(webhook: &str) -> usize {
    let hash = webhook
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    usize::try_from(hash % COUNT as u64).expect("it is below 16")
}

/// Takes shards and gives them back, until the tasks are told to stop. A shard that is lost is free for others once the
/// last lane of its webhooks has ended.
pub(super) fn hold(shared: &Arc<Shared>, tasks: &Tasks) {
    for shard in 0..COUNT {
        let (shared, stop) = (Arc::clone(shared), tasks.stopping());
        tasks.spawn(&format!("webhook shard {shard}"), async move {
            while let Some(lease) = shared.journal.lease(&format!("webhooks:{shard}"), &stop, None).await {
                let lost = lease.lost().clone();
                shared.shards.set(shard, Some(lease));
                shared.changed.ring();
                lost.cancelled().await;
                shared.shards.set(shard, None);
                shared.changed.ring();
            }
        });
    }
}
