//! What is written of pods' statuses: for each pod in the order in which it was said, and before the pod is bound. A patch
//! that came late would say of a bound pod that it has no node.

use std::{collections::HashMap, future::Future};

use tokio::task::JoinHandle;

/// The last write of each pod that has not been waited for, by the pods' uid. Each comes after the one before it.
#[derive(Default)]
pub(super) struct Statuses(HashMap<Box<str>, JoinHandle<()>>);

impl Statuses {
    /// Has a status written once all is written that was said of the pod before.
    pub fn write(&mut self, uid: &str, status: impl Future<Output = ()> + Send + 'static) {
        let before = self.written(uid);
        let write = tokio::spawn(async move {
            before.await;
            status.await;
        });
        self.0.insert(uid.into(), write);
    }

    /// Waits until all is written that was said of the pod so far.
    pub fn written(&mut self, uid: &str) -> impl Future<Output = ()> + Send + use<> {
        let last = self.0.remove(uid);
        async move {
            if let Some(last) = last {
                // One that panicked writes no more.
                _ = last.await;
            }
        }
    }

    /// The pod is gone, and nothing is said of it any more.
    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_pod_is_bound_after_all_that_was_said_of_it_is_written() {
        let (mut statuses, order) = (Statuses::default(), Arc::<Mutex<Vec<&str>>>::default());
        let (answer, slow) = oneshot::channel::<()>();
        let said = order.clone();
        statuses.write("a", async move {
            slow.await.unwrap();
            said.lock().push("unscheduled");
        });
        let said = order.clone();
        statuses.write("a", async move { said.lock().push("not nominated") });
        let (told, bound) = (statuses.written("a"), order.clone());
        let binding = tokio::spawn(async move {
            told.await;
            bound.lock().push("bound");
        });
        statuses.written("b").await;
        tokio::task::yield_now().await;
        assert!(order.lock().is_empty(), "another pod does not wait, and this one does");
        answer.send(()).unwrap();
        binding.await.unwrap();
        assert_eq!(*order.lock(), ["unscheduled", "not nominated", "bound"]);
        statuses.written("a").await;
        statuses.write("a", async {});
        statuses.forget("a");
        assert!(statuses.0.is_empty());
    }
}
