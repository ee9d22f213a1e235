//! What is asked for singly and at once is read together.

use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::failure::Failure;

/// Keys that one read is for.
const BATCH_MAX: usize = 50;

type Waiting<K, V> = (K, oneshot::Sender<Result<V, Failure>>);

/// Collects the keys of one request. The first who asks reads for all who ask in the same turn of the request's task.
pub(super) struct Batch<K, V>(Mutex<Vec<Waiting<K, V>>>);

impl<K, V> Default for Batch<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, V> Batch<K, V> {
    /// The value of a key. `read` gives the values of keys, in their order.
    pub(super) async fn load<R>(&self, key: K, read: impl Fn(Vec<K>) -> R) -> Result<V, Failure>
    where
        R: Future<Output = Result<Vec<V>, Failure>>,
    {
        let (told, mut answer) = oneshot::channel();
        let is_first = {
            let mut waiting = self.lock();
            waiting.push((key, told));
            waiting.len() == 1
        };
        if is_first {
            tokio::task::yield_now().await;
            let mut waiting = std::mem::take(&mut *self.lock());
            while !waiting.is_empty() {
                let rest = waiting.split_off(waiting.len().min(BATCH_MAX));
                let (keys, told): (Vec<K>, Vec<_>) = waiting.into_iter().unzip();
                match read(keys).await {
                    Ok(values) => told.into_iter().zip(values).for_each(|(told, value)| _ = told.send(Ok(value))),
                    Err(failure) => told.into_iter().for_each(|told| _ = told.send(Err(failure.clone()))),
                }
                waiting = rest;
            }
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
        }
        answer.await.unwrap_or_else(|_| Err(Failure::new(super::failure::INTERNAL, "a read was given up")))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting<K, V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
