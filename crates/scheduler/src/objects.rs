//! The other kinds that rules read: shared caches, and their changes in one stream.

use client::{Cache, Caches, Change, Subscription};
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, StatefulSet},
    core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, ReplicationController, Service},
    policy::v1::PodDisruptionBudget,
    resource::v1::{DeviceClass, ResourceClaim, ResourceSlice},
    scheduling::v1alpha2::PodGroup,
    storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment},
};
use tokio::{sync::mpsc, task::JoinSet};

/// The caches. Reading one never waits; an object that is not there yet brings an event of its [`Kind`] when it comes.
#[derive(Clone)]
pub(crate) struct Objects {
    pub namespaces: Cache<Namespace>,
    pub services: Cache<Service>,
    pub replica_sets: Cache<ReplicaSet>,
    pub replication_controllers: Cache<ReplicationController>,
    pub stateful_sets: Cache<StatefulSet>,
    pub budgets: Cache<PodDisruptionBudget>,
    pub volumes: Cache<PersistentVolume>,
    pub volume_claims: Cache<PersistentVolumeClaim>,
    pub storage_classes: Cache<StorageClass>,
    pub csi_nodes: Cache<CSINode>,
    pub csi_drivers: Cache<CSIDriver>,
    pub csi_capacities: Cache<CSIStorageCapacity>,
    pub volume_attachments: Cache<VolumeAttachment>,
    pub resource_claims: Cache<ResourceClaim>,
    pub resource_slices: Cache<ResourceSlice>,
    pub device_classes: Cache<DeviceClass>,
    pub pod_groups: Cache<PodGroup>,
}

/// Kinds whose changes may help a pod that was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Namespace,
    Service,
    PodDisruptionBudget,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    CsiNode,
    CsiDriver,
    CsiStorageCapacity,
    VolumeAttachment,
    ResourceClaim,
    ResourceSlice,
    DeviceClass,
    PodGroup,
}

impl Objects {
    pub fn new(caches: &Caches) -> Self {
        Self {
            namespaces: caches.get(),
            services: caches.get(),
            replica_sets: caches.get(),
            replication_controllers: caches.get(),
            stateful_sets: caches.get(),
            budgets: caches.get(),
            volumes: caches.get(),
            volume_claims: caches.get(),
            storage_classes: caches.get(),
            csi_nodes: caches.get(),
            csi_drivers: caches.get(),
            csi_capacities: caches.get(),
            volume_attachments: caches.get(),
            resource_claims: caches.get(),
            resource_slices: caches.get(),
            device_classes: caches.get(),
            pod_groups: caches.get(),
        }
    }

    /// Waits until everything that existed at the start is there.
    pub async fn synced(&self) {
        self.namespaces.synced().await;
        self.services.synced().await;
        self.replica_sets.synced().await;
        self.replication_controllers.synced().await;
        self.stateful_sets.synced().await;
        self.budgets.synced().await;
        self.volumes.synced().await;
        self.volume_claims.synced().await;
        self.storage_classes.synced().await;
        self.csi_nodes.synced().await;
        self.csi_drivers.synced().await;
        self.csi_capacities.synced().await;
        self.volume_attachments.synced().await;
        self.resource_claims.synced().await;
        self.resource_slices.synced().await;
        self.device_classes.synced().await;
        self.pod_groups.synced().await;
    }

    fn watched(&self) -> [(Kind, Subscription); 14] {
        [
            (Kind::Namespace, self.namespaces.subscribe()),
            (Kind::Service, self.services.subscribe()),
            (Kind::PodDisruptionBudget, self.budgets.subscribe()),
            (Kind::PersistentVolume, self.volumes.subscribe()),
            (Kind::PersistentVolumeClaim, self.volume_claims.subscribe()),
            (Kind::StorageClass, self.storage_classes.subscribe()),
            (Kind::CsiNode, self.csi_nodes.subscribe()),
            (Kind::CsiDriver, self.csi_drivers.subscribe()),
            (Kind::CsiStorageCapacity, self.csi_capacities.subscribe()),
            (Kind::VolumeAttachment, self.volume_attachments.subscribe()),
            (Kind::ResourceClaim, self.resource_claims.subscribe()),
            (Kind::ResourceSlice, self.resource_slices.subscribe()),
            (Kind::DeviceClass, self.device_classes.subscribe()),
            (Kind::PodGroup, self.pod_groups.subscribe()),
        ]
    }

    /// The changes of all watched kinds, beginning with what is there, which is ready at once.
    pub fn changes(&self) -> Changes {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut feeds = JoinSet::new();
        for (resource, mut subscription) in self.watched() {
            let sender = sender.clone();
            while let Some(change) = subscription.try_next() {
                // The receiver is still here.
                _ = sender.send((resource, change));
            }
            feeds.spawn(async move { while sender.send((resource, subscription.next().await)).is_ok() {} });
        }
        Changes { receiver, _feeds: feeds }
    }
}

/// Changes of several kinds, those of one kind in their order.
pub(crate) struct Changes {
    receiver: mpsc::UnboundedReceiver<(Kind, Change)>,
    /// Ends with the receiver.
    _feeds: JoinSet<()>,
}

impl Changes {
    pub fn try_next(&mut self) -> Option<(Kind, Change)> {
        self.receiver.try_recv().ok()
    }

    /// The next change. Safe to cancel. Waits for ever when nothing feeds it any more.
    pub async fn next(&mut self) -> (Kind, Change) {
        match self.receiver.recv().await {
            Some(change) => change,
            None => std::future::pending().await,
        }
    }
}
